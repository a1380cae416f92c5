"""Cards of a FITS header: any value and any text, in the ASCII that they can hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.io import fits


def put(header: fits.Header, keyword: str, value: Any, comment: str) -> None:
    """Set a card to any scalar or text; what FITS cannot hold becomes text (see `escape`)."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        value = str(value)
    if not isinstance(value, bool | int | float):
        value = escape(str(value))
    # a comment after a long text would be moved into further CONTINUE cards: only where it fits
    room = 45 if not isinstance(value, str) else 64 - len(value.replace("'", "''"))
    comment = escape(comment)
    if keyword.upper() in header:
        header.remove(keyword.upper(), remove_all=True)
    header[keyword.upper()] = (value, comment if len(comment) <= max(room, 0) else comment[: max(room, 0)])


def escape(text: str) -> str:
    """Any text as printable ASCII, which is all that a FITS header can hold."""
    text = text.encode("unicode_escape").decode("ascii")
    # in a text of several cards quotes and ampersands are misread by some, astropy included
    return text.replace("'", "\\x27").replace("&", "\\x26") if len(text) > 60 else text


def unescape(text: str) -> str:
    """The text that `escape` was given; other text is returned as it is where it is no valid escape."""
    try:
        return text.encode("latin-1", "backslashreplace").decode("unicode_escape")
    except UnicodeDecodeError:
        return text
