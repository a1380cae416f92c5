"""Draws in a zarr store that xarray and ArviZ read: `write_draws`, `read_draws`."""

from __future__ import annotations

import json
import os
import platform
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Float
from numpy.typing import DTypeLike
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import LocalStore, MemoryStore

from invprob.errors import InputError, OutputError, UsageError
from invprob.files import atomic_directory, check_directory
from invprob.io.extensions import grid_header
from invprob.io.wcs import shift_header
from invprob.io.write import PACKAGES, config_hash, config_text, package_version
from invprob.observation import Frame, InputFile, Observation
from invprob.results import Estimate, Samples
from invprob.results.inference_data import Groups, Variable, facts, groups

CHUNK_BYTES = 2**20  # of draws in one file, or one draw where that is more
PACKED = (BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"), Crc32cCodec())  # half a chunk may unpack by luck
_AS_JSON = ("configuration", "versions", "inputs", "report")  # attributes that hold more than a text or a number
_ROOT = "zarr.json"


def write_draws(
    samples: Estimate,
    path: str | os.PathLike[str],
    *,
    observation: Observation | None = None,
    frame: Frame | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    device: str | None = None,
    every: int = 1,
    dtype: DTypeLike = np.float32,
    overwrite: bool = False,
) -> Path:
    """Write the draws of a result as a zarr store: a directory that xarray and ArviZ open.

    | group | content |
    |---|---|
    | posterior | ``image`` (chain, draw, y, x), flux per latent pixel; each number that was drawn (chain, draw) |
    | sample_stats | of draws of chains: ``acceptance_rate``, ``diverging``, ``energy`` of Hamiltonian samplers |
    | observed_data | ``data``, in the unit of the frame, NaN where no datum is valid |
    | constant_data | ``variance`` of the data, NaN where no datum is valid |

    The names are those of `invprob.results.inference_data.groups`. The attributes of the store and of ``posterior`` say
    how the draws were made: ``status`` with ``advice``, ``solver`` with ``reason``, ``convergence_check`` (what failed,
    or "passed"), ``bias``, ``thinning``, ``unit``, ``pixel_scale`` (arcsec per latent pixel), ``wcs`` (FITS cards of
    the grid of y and x), and as JSON ``configuration`` with ``configuration_sha256``, ``inputs``, ``versions`` and
    ``report`` (the records of the result, by name). The same result gives the same bytes (no date).

    Parameters
    ----------
    samples
        What a sampler gave.
    path
        Directory to make, by custom with the ending ``.zarr``.
    observation
        The data; None where they are not to be in the store.
    frame
        The latent grid, with or without its border as the draws have it; default: that of the result.
    config
        The configuration, of what JSON can hold.
    seed, device
        Seed of the random numbers and the device of the run, in words.
    every
        Keep one draw of each chain in so many.
    dtype
        Floating point type of what is an array in each draw; numbers keep theirs.
    overwrite
        Whether a store of draws that exists may be replaced; anything else never is.

    Returns
    -------
    Path
        The directory written.

    Raises
    ------
    UsageError
        When the result holds no draws, or fewer than ``every``.
    OutputError
        When there is something at ``path``, it cannot be written, the draws are not on the grid of the frame, or values
        are not finite. Nothing is left behind.
    """
    path = Path(path)
    if not isinstance(samples, Samples):
        raise UsageError(
            "the result is an estimate without draws: take ip.sample, or ip.deconvolve with method 'sample'"
        )
    check_store(path, observation.inputs if observation else (), overwrite)
    found = groups(samples, every)
    frame = frame or samples.frame or (observation.frame if observation else None)
    about = facts(samples, every) | _grid(found["posterior"], frame, path)
    about |= _run(samples, observation, config, seed, device)
    if observation is not None:
        found |= _data(observation)
    with atomic_directory(path, overwrite) as folder:
        _write(found, about, frame.unit if frame else "", np.dtype(dtype), folder, path)
    return path


def check_store(path: str | os.PathLike[str], inputs: Iterable[InputFile] = (), overwrite: bool = False) -> None:
    """Refuse, before any work is done, a store that could not be written or is not ours to replace.

    Raises
    ------
    OutputError
        With what is in the way.
    """
    path = Path(path)
    check_directory(path, overwrite)
    if path.exists() and not _is_ours(path):
        raise OutputError(f"{path} is not a store of draws and is not replaced: choose another name")
    for source in inputs:
        if path.resolve() in Path(source.path).resolve().parents:
            raise OutputError(
                f"{path} holds {source.path}, an input of this run, and is not replaced: choose another name"
            )


@dataclass(frozen=True, eq=False)
class StoredDraws:
    """What a store of draws holds.

    Parameters
    ----------
    posterior, sample_stats
        Arrays by name, with the leading axes ``(chain, draw)``.
    observed_data, constant_data
        Arrays on the data grid by name.
    attributes
        What is said of the draws; JSON is parsed.
    """

    posterior: Mapping[str, np.ndarray]
    sample_stats: Mapping[str, np.ndarray] = field(default_factory=dict)
    observed_data: Mapping[str, np.ndarray] = field(default_factory=dict)
    constant_data: Mapping[str, np.ndarray] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> Float[np.ndarray, "draw y x"]:
        """The image of each draw, chain after chain, as `invprob.measure_image` takes them.

        Raises
        ------
        InputError
            When the latent was not one image.
        """
        if "image" not in self.posterior:
            raise InputError(f"the store holds no variable 'image'; it holds {', '.join(sorted(self.posterior))}")
        image = self.posterior["image"]
        return image.reshape(-1, *image.shape[2:])


def read_draws(path: str | os.PathLike[str]) -> StoredDraws:
    """Read what `write_draws` wrote.

    Raises
    ------
    InputError
        When there is no such store, it is not one of ours, it is damaged, or its configuration was changed.
    """
    path = Path(path)
    if not _is_ours(path):
        raise InputError(f"{path} is not a store of draws: give a directory that invprob wrote")
    try:
        root = zarr.open_group(LocalStore(path, read_only=True), mode="r")
        arrays = {
            name: {key: np.asarray(a[...]) for key, a in group.arrays() if _axes(a) != (key,)}
            for name, group in root.groups()
        }
        texts: dict[str, Any] = dict(root.attrs)
        about = {k: json.loads(v) if k in _AS_JSON else v for k, v in texts.items()}
        read = StoredDraws(**arrays, attributes=about)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise InputError(f"{path} is damaged ({' '.join(str(error).split())}): get the whole store") from error
    for name, values in read.posterior.items():
        if not _finite(values):  # what is missing of a store reads as NaN
            raise InputError(f"{path} is damaged: parts of {name} are missing; get the whole store")
    if "configuration" in about and config_hash(about["configuration"]) != about.get("configuration_sha256"):
        raise InputError(f"the configuration in {path} was changed: it does not match its hash")
    return read


def _axes(array: Any) -> tuple[str, ...]:
    return array.metadata.dimension_names


def _is_ours(path: Path) -> bool:
    try:
        return json.loads((path / _ROOT).read_text())["attributes"]["inference_library"] == "invprob"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _grid(posterior: dict[str, Variable], frame: Frame | None, path: Path) -> dict[str, Any]:
    """Unit and place on the sky of the axes y and x."""
    shape = next((v.values.shape[2:] for v in posterior.values() if v.dims[2:] == ("y", "x")), None)
    if frame is None:
        return {}
    about: dict[str, Any] = {"unit": frame.unit}
    if shape is None:
        return about
    inner = frame.cropped().shape
    if shape not in (inner, frame.shape):
        raise OutputError(
            f"{path} was not written: the draws have the shape {shape}, the frame {inner}, with border {frame.shape}"
        )
    cards = grid_header(frame, frame.factor, [])
    if shape != inner:
        (below, _), (left, _) = frame.border
        cards = shift_header(cards, below, left)
    if frame.pixel_scale:
        about["pixel_scale"] = frame.pixel_scale / frame.factor
    return about | {"wcs": [str(card).rstrip() for card in cards.cards]}


def _run(
    samples: Samples, observation: Observation | None, config: Mapping[str, Any] | None, seed: int | None,
    device: str | None,
) -> dict[str, Any]:  # fmt: skip
    """What has to be known to repeat the run. Structured values are JSON: a text goes into every other format."""
    packages = {name: package_version(name) for name in (*PACKAGES, "zarr")}
    report = {record.name: _scalar(record.value) for record in samples.report}
    about: dict[str, Any] = {
        "versions": json.dumps(packages | {"python": platform.python_version()}),
        "report": json.dumps(report),
        "seed": seed,
        "device": device,
    }
    if config is not None:
        about |= {"configuration": config_text(config), "configuration_sha256": config_hash(config)}
    if observation is not None:
        inputs = [{k: getattr(f, k) for k in ("role", "path", "extension", "sha256")} for f in observation.inputs]
        about |= {"inputs": json.dumps(inputs), "noise_source": observation.noise_source}
    return {name: value for name, value in about.items() if value is not None}


def _scalar(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def _data(observation: Observation) -> Groups:
    axes = ("data_y", "data_x")
    coordinates = {d: Variable((d,), np.arange(n)) for d, n in zip(axes, observation.shape, strict=True)}

    def group(name: str, values: np.ndarray):
        return {name: Variable(axes, np.where(observation.valid, values, np.nan)), **coordinates}

    return {"observed_data": group("data", observation.data), "constant_data": group("variance", observation.variance)}


def _write(found: Groups, about: dict[str, Any], unit: str, dtype: np.dtype, folder: Path, path: Path) -> None:
    """Fill a folder, chunk by chunk.

    Chunks are packed in memory and written here: zarr's own thread would go on writing after a Ctrl-C, into a folder
    that is being removed.
    """
    made: dict[str, Any] = {}
    store = MemoryStore(made)
    root = zarr.create_group(store, attributes=about)
    library = {k: about[k] for k in ("inference_library", "inference_library_version")}
    for name, variables in found.items():
        group = root.create_group(name, attributes=about if name == "posterior" else library)
        for key, variable in variables.items():
            values = variable.values
            drawn = name == "posterior" and key not in variable.dims
            if drawn and not _finite(values):
                raise OutputError(f"{path} was not written: values of {key} are not finite")
            packed = dtype if drawn and values.ndim > 2 and values.dtype.kind == "f" else values.dtype
            array = group.create_array(
                key, shape=values.shape, dtype=packed, chunks=_chunks(values.shape, packed.itemsize),
                compressors=PACKED, dimension_names=variable.dims, fill_value=np.nan if packed.kind == "f" else 0,
                attributes={"units": unit} if unit and key in ("image", "data") else {},
            )  # fmt: skip
            for block in _blocks(values.shape, array.chunks):
                array[block] = values[block].astype(packed)
                _drain(made, folder)
    with warnings.catch_warnings():
        # an addition to the standard that readers may pass over; xarray warns where it is missing
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        zarr.consolidate_metadata(store)
    _drain(made, folder, metadata=True)


def _finite(values: np.ndarray) -> bool:
    return all(np.isfinite(chain).all() for chain in values) if values.dtype.kind in "fc" else True


def _chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Whole draws of one chain, or all of a small array."""
    if int(np.prod(shape)) * itemsize <= CHUNK_BYTES or len(shape) < 3:
        return shape
    draws = CHUNK_BYTES // (int(np.prod(shape[2:])) * itemsize)
    return (1, min(max(draws, 1), shape[1]), *shape[2:])


def _blocks(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    steps = [range(0, n, c) for n, c in zip(shape, chunks, strict=True)]
    return (tuple(slice(i, i + c) for i, c in zip(start, chunks, strict=True)) for start in product(*steps))


def _drain(made: dict[str, Any], folder: Path, metadata: bool = False) -> None:
    """Move what was made in memory to the disk: the chunks, at the end the metadata too."""
    for key in [key for key in made if metadata or not key.endswith(_ROOT)]:
        file = folder / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(made.pop(key).to_bytes())


__all__ = ["StoredDraws", "check_store", "read_draws", "write_draws"]
