"""The one loop, with a state that counts: chunks and their borders, lines, interruptions by key and by signal."""

import os
import signal
from dataclasses import dataclass

import numpy as np
import pytest

from invprob import loop
from invprob.errors import InputError, OutputError
from invprob.loop import Checkpoint, Chunk, Pace, Watch, after, any_of, run_chunks, terminated_as_interrupted


@dataclass(frozen=True)
class Line:
    step: int
    seconds: float


class Counter:
    """Counts steps, remembers the ends of its chunks, and fails or is interrupted where it is told."""

    def __init__(self, interrupted_at=None):
        self.ends, self.interrupted_at = [], interrupted_at

    def __call__(self, state, until):
        self.ends.append(until)
        if len(self.ends) == self.interrupted_at:
            raise KeyboardInterrupt
        return Chunk(np.asarray(until), until)


def counted(total=100, advance=None, *, watch=loop.UNWATCHED, start=0, is_lasting=False, **more):
    keep = Checkpoint(watch.checkpoint, (np.arange(3.0),), "count", is_lasting=is_lasting)
    state = keep.load(np.asarray(start))
    advance = Counter() if advance is None else advance
    return run_chunks(
        Chunk(state, int(state)), advance, lambda c, s: Line(c.step, s), total, watch=watch, keep=keep, **more
    )


def test_chunks_grow_and_go_beyond_no_border():
    count = Counter()
    outcome = counted(100, count, pace=Pace(first=2, most=16), border=lambda step: (step // 30 + 1) * 30)
    assert outcome.last.step == 100 and not outcome.interrupted and outcome.lines == ()
    lengths = np.diff([0, *count.ends])
    assert lengths[0] == 2 and lengths.max() <= 16 and {30, 60, 90, 100} <= set(count.ends)


def test_slow_steps_make_short_chunks(monkeypatch):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)
    count = Counter()
    counted(20, count, pace=Pace(first=8, least=3))
    assert np.diff(count.ends).tolist() == [3, 3, 3, 3]


def test_lines_are_for_those_who_watch():
    seen = []
    outcome = counted(50, watch=Watch(seen.append))
    assert list(outcome.lines) == seen and seen[-1].step == 50 and outcome.history[-1]["step"] == 50
    assert counted(50, is_recorded=True).lines
    assert counted(50, is_recorded=True, pace=Pace(line_seconds=1e9)).lines == ()
    stopped = counted(50, watch=Watch(stop=any_of(after(1e9), lambda line: line.step >= 5)))
    assert stopped.stopped and 5 <= stopped.last.step < 50


def test_a_chunk_that_is_interrupted_is_as_if_it_had_not_begun(tmp_path):
    path, count = tmp_path / "state", Counter(interrupted_at=3)
    outcome = counted(1000, count, watch=Watch(checkpoint=path))
    assert outcome.interrupted and outcome.last.step == count.ends[1] and path.exists()
    again = Counter()
    resumed = counted(1000, again, watch=Watch(checkpoint=path))
    assert again.ends[0] > count.ends[1] and resumed.last.step == 1000 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("is_lasting", [False, True])
def test_the_file_goes_when_the_run_has_ended(is_lasting, tmp_path):
    path = tmp_path / "state"
    watch = Watch(checkpoint=path)
    counted(1000, Counter(interrupted_at=3), watch=watch)
    counted(1000, watch=watch, is_lasting=is_lasting)
    assert path.exists() == is_lasting


def test_sigterm_keeps_the_state(tmp_path):
    path = tmp_path / "state"
    before = signal.getsignal(signal.SIGTERM)
    outcome = counted(10**6, watch=Watch(lambda line: os.kill(os.getpid(), signal.SIGTERM), checkpoint=path))
    assert outcome.interrupted and path.exists() and outcome.last.step == outcome.lines[0].step
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_handler_of_the_caller_stays():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with terminated_as_interrupted():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_places_that_do_not_do_are_one_line(tmp_path):
    for place, error in ((tmp_path, InputError), (tmp_path / "none" / "state", OutputError)):
        with pytest.raises(error) as caught:
            counted(1000, Counter(interrupted_at=2), watch=Watch(checkpoint=place))
        assert "\n" not in str(caught.value) and str(place) in str(caught.value)
