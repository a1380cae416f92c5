"""Double precision everywhere, compiled programs that are kept, the development data, and what needs a GPU."""

import ctypes
import gc
import os
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command does; the processes of a test run share the cores

# most of the time is spent on compiling the same small programs in every process and every run
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import jaxlib.version
import pytest

jax.config.update("jax_enable_x64", True)


def pytest_configure(config):
    """Compile without optimizing, which saves half of the compiling, but for what is long (`-m slow`)."""
    if config.getoption("markexpr") == "not slow":
        flags = "--xla_backend_optimization_level=0"
        if jaxlib.version.__version_info__[:2] == (0, 10):  # a flag that is not known would end the process
            flags += " --xla_cpu_use_fusion_emitters=false"
        os.environ.setdefault("XLA_FLAGS", flags)


PROCESS = Path("/proc/self")
MOST_MAPPINGS = 25_000  # of memory by one process; Linux allows 65,530, and each compiled program takes some
MOST_MEMORY = 2.0e9  # bytes of one process, most of them compiled programs that are not needed any more


@pytest.fixture(autouse=True)
def few_programs():
    """Forget compiled programs before they fill the memory; those that are needed again are read from the cache."""
    yield
    if not PROCESS.exists():
        return
    memory = int((PROCESS / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if memory > MOST_MEMORY or (PROCESS / "maps").read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # else what was freed stays with the process


@pytest.fixture(autouse=True)
def own_arrays(request):
    """Begin the random keys of the cases with the name of the test, so that none depends on which ran before it."""
    if (cases := sys.modules.get("tests.cases")) is not None:
        cases.KEYS.begin(request.node.nodeid)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The development data beside the repository; a test that needs them is skipped where they are not."""
    path = Path(__file__).parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the development data are not here: ../shared/data")
    return path


def pytest_collection_modifyitems(items):
    """Skip what is marked `gpu` where JAX sees none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not any(device.platform == "gpu" for device in jax.devices()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a GPU, and JAX sees none"))
