"""Files in, files out: one configured run (`run`) and its repetition from the header (`replay`)."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from invprob.config import Config, InputConfig
from invprob.errors import InputError, OutputError, UsageError
from invprob.files import check_writable
from invprob.io.read.hdus import Spec, sha256
from invprob.io.read.read_fits import read_fits
from invprob.io.readback import check_format, compare_fits, read_images, read_provenance, same_bytes
from invprob.io.write import check_output, write_fits
from invprob.observation import InputFile, Observation
from invprob.pipeline.deconvolve import check, deconvolve
from invprob.pipeline.draws import every_for_few, fewer
from invprob.progress import SILENT, Listener
from invprob.recipes.registry import recipe_of
from invprob.results import Estimate, Samples, Status
from invprob.results.report import Report

REPLAY_RTOL = {"float64": 1e-6, "float32": 1e-3}  # of the largest value, between machines or versions


class Interrupted(KeyboardInterrupt):
    """The user stopped a run whose state is kept in a file."""

    def __init__(self, state: Path):
        super().__init__(str(state))
        self.state = state


def read(config: Config) -> Observation:
    """The observation that a configuration names.

    Raises
    ------
    UsageError
        When it names no image.
    InputError
        When there is no PSF, and none is not said.
    """
    given = config.input
    if given.image is None:
        raise UsageError("no image is given")
    options = given.model_dump(exclude={"image"})
    observation = read_fits(given.image, **options, dtype=config.dtype)
    if observation.psf is None and given.psf != "none":
        raise InputError(
            f"{given.image} has no PSF extension: give one with --psf FILE[EXT], or --psf none to denoise without one"
        )
    return observation


def run(
    config: Config, out: str | os.PathLike, *, overwrite: bool = False, plot: str | os.PathLike | None = None,
    listener: Listener = SILENT, calibration: str | os.PathLike | None = None,
    draws_out: str | os.PathLike | None = None,
) -> tuple[Estimate, Observation]:  # fmt: skip
    """Read, deconvolve and write.

    Parameters
    ----------
    config
        Configuration, with the files under ``input``.
    out
        FITS file to write.
    overwrite
        Whether an existing output may be replaced.
    plot
        Picture to write, None for none.
    listener
        Who is told of the progress.
    calibration
        Calibration card of this prior, whose hash and verdict go into the header.
    draws_out
        Store for all draws, see `invprob.io.store.write_draws`, None for none. With it the FITS file holds at most 100
        of them, one of each chain in so many.

    Raises
    ------
    InputError, NoUsablePixelsError, UsageError, OutputError
        Before anything is written.
    Interrupted
        At Ctrl-C during the solve; the state is in a file beside the output, and the same call goes on from it.
    """
    out = Path(out)
    check(config)
    if plot is not None:
        _check_picture(Path(plot), out, overwrite)
    check_writable(out, overwrite)
    if draws_out is not None:
        _check_store(Path(draws_out), [out, *([] if plot is None else [Path(plot)])], config, overwrite)
    calibrated = Report() if calibration is None else calibration_report(calibration, config)
    observation = read(config)
    check_output(out, observation.inputs, overwrite)
    if draws_out is not None:
        from invprob.io.store import check_store

        check_store(draws_out, observation.inputs, overwrite)
    for warning in observation.warnings:
        listener.note(f"warning: {warning}")
    result = _deconvolve(observation, config, out, listener)
    if draws_out is None:
        _write(result, observation, config, out, overwrite, calibrated)
    else:
        _write_both(result, observation, config, out, Path(draws_out), overwrite, calibrated, listener)
    if plot is not None:
        from invprob.plot.result import plot_result

        plot_result(result, observation, plot, overwrite=overwrite)
    return result, observation


def _check_picture(plot: Path, out: Path, overwrite: bool) -> None:
    from invprob.plot.figures import picture_format

    picture_format(plot)
    check_writable(plot, overwrite)
    if plot.resolve() == out.resolve():
        raise UsageError(f"{plot} cannot be both the FITS file and the picture: choose another name for one")


def _check_store(store: Path, others: list[Path], config: Config, overwrite: bool) -> None:
    from invprob.io.store import check_store

    if config.method == "map":
        raise UsageError(f"a store of draws needs draws, which method {config.method!r} has not: give --method sample")
    check_store(store, (), overwrite)
    for other in others:
        if store.resolve() in (other.resolve(), *other.resolve().parents):
            raise UsageError(f"the store of draws {store} cannot be or hold {other}: choose another name for one")


def _deconvolve(observation: Observation, config: Config, out: Path, listener: Listener) -> Estimate:
    state = out.with_name(out.name + ".state")
    result = deconvolve(observation, config, listener=listener, checkpoint=state)
    if result.status is Status.INTERRUPTED:
        raise Interrupted(state)
    return result


def calibration_report(path: str | os.PathLike, config: Config) -> Report:
    """What is said of a calibration card.

    Raises
    ------
    InputError
        When the file is not there, or no card, or was changed.
    UsageError
        When it is the card of another prior.
    """
    from invprob.calibration import Calibration

    try:
        found = Calibration.from_json(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); a card of `invprob calibrate` is needed") from None
    prior, name = found.settings.get("prior"), recipe_of(config).name
    if prior != name:
        raise UsageError(f"{path} is the calibration card of prior {prior!r}, the run has prior {name!r}")
    return Report.of(
        calibration_sha256=found.sha256, calibration_passed=found.passed, calibration_cases=found.num_cases
    )


def _write(
    result: Estimate, observation: Observation, config: Config, out: Path, overwrite: bool, more: Report
) -> None:
    write_fits(result, out, **_record(observation, config), overwrite=overwrite, more=more)


def _record(observation: Observation, config: Config) -> dict[str, Any]:
    """What every output has of a run."""
    import jax

    device = jax.devices()[0]
    return {
        "observation": observation,
        "config": config.model_dump(mode="json"),
        "seed": config.seed,
        "device": f"{device.platform}: {device.device_kind}",
    }


def _write_both(
    result: Estimate, observation: Observation, config: Config, out: Path, store: Path, overwrite: bool,
    more: Report, listener: Listener,
) -> None:  # fmt: skip
    """All draws in a store, and few of them in the FITS file."""
    from invprob.io.store import write_draws

    assert isinstance(result, Samples)
    every = every_for_few(result)
    chains = f" of {result.num_chains} chains" if result.num_chains > 1 else ""
    listener.note(f"writing {len(result.draws)} draws{chains} to {store}")  # type: ignore[arg-type]
    result = replace(result, report=result.report | more)
    try:
        write_draws(result, store, **_record(observation, config), overwrite=overwrite)
    except OutputError:  # the work is not lost: all draws go into the file, as they do without a store
        _write(result, observation, config, out, overwrite, more)
        raise
    thinned = Report.of(draws_store=store.name, draws_thinning=every)
    _write(fewer(result, every), observation, config, out, overwrite, more | thinned)


@dataclass(frozen=True)
class Replay:
    """How a repeated run compares with its file.

    Parameters
    ----------
    identical
        Whether the bytes are the same.
    differences
        What differs by more than the tolerance, one line each.
    rtol
        The tolerance, relative to the largest value of an extension.
    changed
        Versions or device that are not those of the file.
    """

    identical: bool
    differences: tuple[str, ...]
    rtol: float
    changed: tuple[str, ...]


def replay(path: str | os.PathLike, *, image: str | None = None, listener: Listener = SILENT) -> Replay:
    """Repeat the run that wrote a file, from its header, and compare.

    Parameters
    ----------
    path
        File of `write_fits`.
    image
        Where the image lies now; default: where the header says, from here or from the file's directory. The other
        input files are looked for beside it as well.

    Raises
    ------
    InputError
        When the file has no record, or an input or the weights of a learned prior are missing or were changed.
    """
    record = read_provenance(path)
    if record["config"] is None:
        raise InputError(f"{path} holds no configuration: it was not written by `invprob deconvolve`")
    read_images(path)  # a damaged file is told before the run, not after it
    check_format(path, record)
    config = Config.make(**record["config"])
    if record["prior_hash"] is not None:
        recipe_of(config).verify(record["prior_hash"])
    places = [Path(), Path(path).resolve().parent]
    if image is not None:
        places.insert(0, Path(Spec.parse(image).path).resolve().parent)
    # noise, mask and PSF are often in the image's own file, which then lies where that lies
    own = {f.path for f in record["inputs"] if f.role == "image"}
    found = {f.path: _locate(f, places, image if f.path in own else None) for f in record["inputs"]}
    observation = read(config.model_copy(update={"input": _moved(config.input, found)}))
    observation = _as_recorded(observation, {new: old for old, new in found.items()})
    for warning in observation.warnings:
        listener.note(f"warning: {warning}")
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / Path(path).name
        result = deconvolve(observation, config, listener=listener)
        if result.status is Status.INTERRUPTED:
            raise KeyboardInterrupt
        more = record["report"]
        if "draws_thinning" in more and isinstance(result, Samples):
            result = fewer(result, more.draws_thinning)
        _write(result, observation, config, again, overwrite=False, more=more)
        now = read_provenance(again)
        changed = tuple(
            f"{name}: {record['versions'].get(name)} then, {version} now"
            for name, version in now["versions"].items()
            if record["versions"].get(name) != version
        )
        if now["device"] != record["device"]:
            changed += (f"device: {record['device']} then, {now['device']} now",)
        if same_bytes(path, again):
            return Replay(True, (), 0.0, changed)
        rtol = REPLAY_RTOL[config.dtype] if changed else 0.0
        return Replay(False, tuple(compare_fits(path, again, rtol)), rtol, changed)


def _locate(file: InputFile, places: list[Path], given: str | None) -> str:
    candidates = [Spec.parse(given).path] if given else []
    candidates += [str(place / file.path) for place in places] + [str(p / Path(file.path).name) for p in places]
    there = [candidate for candidate in candidates if os.path.isfile(candidate)]
    for candidate in there:
        if sha256(candidate) == file.sha256:
            return candidate
    if there:
        raise InputError(
            f"{there[0]} ({file.role}) is not the file that was read: its SHA-256 differs from the header's; "
            "give the unchanged file with --image FILE"
        )
    raise InputError(f"{file.path} ({file.role}) was not found: give its place with --image FILE")


def _moved(config: InputConfig, found: dict[str, str]) -> InputConfig:
    changes: dict[str, Any] = {}
    for name in ("image", "psf", "variance", "mask"):
        text = getattr(config, name)
        if text is None:
            continue
        for old, new in found.items():
            if text == old or text.startswith((f"{old}[", f"{old}:")):
                changes[name] = new + text[len(old) :]
    return config.model_copy(update=changes)


def _as_recorded(observation: Observation, back: dict[str, str]) -> Observation:
    """The observation with its files under the names of the header, in the warnings as well."""
    inputs = tuple(replace(f, path=back.get(f.path, f.path)) for f in observation.inputs)
    said = observation.warnings
    for new, old in back.items():
        said = tuple(warning.replace(new, old) for warning in said)
    return replace(observation, inputs=inputs, warnings=said)
