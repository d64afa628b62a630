"""The tests under every linear-algebra kernel of this processor, once with two threads, and without Numba.

OpenBLAS chooses its kernel by the processor, and `OPENBLAS_CORETYPE` asks for another; NumPy's own loops have
several forms too. Each rounds in its own way: what a test asserts has to hold for all of them.

Run as ``python tests/everywhere.py [--quick] [--slow] [pytest's arguments]``: a line for each setting; what
its tests printed is kept in out/everywhere/. The exit status is the number of settings that failed. The long
studies take part with ``--slow`` alone: without compiled code they would take hours.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOGS = ROOT / "out" / "everywhere"
KERNELS = ("Haswell", "Zen", "SkylakeX", "Sandybridge", "Nehalem", "Prescott", "ARMV8", "NEOVERSEN1")
PROBE = """
import json
import numpy as np, scipy.linalg, threadpoolctl
a = np.random.default_rng(0).standard_normal((200, 200))
b = scipy.linalg.blas.dgemm(1.0, a, a @ a)  # an instruction that the processor lacks ends the process here
pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
print(json.dumps(sorted({str(pool.get("architecture", pool["internal_api"])) for pool in pools})))
"""
LOOPS = """
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
print(" ".join(name for name in __cpu_dispatch__ if __cpu_features__.get(name)))
"""
HIDDEN = 'raise ModuleNotFoundError("Numba is hidden", name="numba")\n'


@dataclass(frozen=True)
class Setting:
    """One way to run the tests.

    Attributes
    ----------
    name : str
    kernel : str
        What is asked for; empty for OpenBLAS's own choice.
    threads : int
        Of OpenBLAS.
    extra : dict
        Further environment variables.
    """

    name: str
    kernel: str = ""
    threads: int = 1
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """All variables of a process."""
        own = {"OPENBLAS_NUM_THREADS": str(self.threads)} | self.extra
        if self.kernel:
            own["OPENBLAS_CORETYPE"] = self.kernel
        return {key: value for key, value in os.environ.items() if key != "OPENBLAS_CORETYPE"} | own

    def ask(self, code: str) -> str | None:
        """What a process of this setting prints; None where it dies."""
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None


def kernels() -> Iterator[tuple[str, str]]:
    """Kernels that this processor runs, OpenBLAS's choice first: what is asked for, and what then runs."""
    seen: dict[str, str] = {}
    for kernel in ("", *KERNELS):
        found = Setting("", kernel).ask(PROBE)
        if found is None:
            say(kernel or "own choice", "not run: this processor lacks instructions of this kernel")
            continue
        ran = " and ".join(json.loads(found))
        if ran in seen:
            say(kernel, f"not run: it is {ran} here, as for {seen[ran] or 'own choice'}")
            continue
        seen[ran] = kernel
        yield kernel, ran


def settings(hidden: str, quick: bool) -> Iterator[Setting]:
    """What to run; with `quick`, a second kernel alone."""
    if quick:
        for kernel, ran in itertools.islice(kernels(), 1, 2):
            yield Setting(f"asked {kernel}, ran {ran}", kernel)
        return
    found = list(kernels())
    for kernel, ran in found:
        yield Setting(f"asked {kernel or 'own choice'}, ran {ran}, threads 1, Numba", kernel)
    yield Setting(f"asked own choice, ran {found[0][1]}, threads 2, Numba", threads=2)
    own = f"asked own choice, ran {found[0][1]}, threads 1"
    path = os.pathsep.join(filter(None, [hidden, os.environ.get("PYTHONPATH", "")]))
    yield Setting(f"{own}, no Numba", extra={"PYTHONPATH": path})
    yield Setting(f"{own}, Numba that does not compile", extra={"NUMBA_DISABLE_JIT": "1"})
    loops = Setting("").ask(LOOPS)
    if loops:
        yield Setting(f"{own}, Numba, NumPy without {loops}", extra={"NPY_DISABLE_CPU_FEATURES": loops})


def say(name: str, what: str) -> None:
    print(f"{name:<72} {what}", flush=True)


def passes(setting: Setting, arguments: list[str]) -> bool:
    """Run the tests and tell how they went."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-n", "auto", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, env=setting.environment, cwd=ROOT, capture_output=True, text=True)
    log = LOGS / ("".join(c if c.isalnum() else "-" for c in setting.name) + ".log")
    log.write_text(done.stdout + done.stderr)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    # Costly tests are named after pytest's own last line.
    ends = [line for line in lines if " passed" in line or " failed" in line] or lines or ["no output"]
    verdict = "passed" if done.returncode == 0 else f"FAILED, see {log.relative_to(ROOT)}"
    seconds = time.monotonic() - began
    say(setting.name, f"{verdict}: {ends[-1].strip('= ')} ({seconds:.0f} s)")
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            print("   ", line)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="the tests marked delicate, under a second kernel"
    )
    parser.add_argument("--slow", action="store_true", help="the long studies too")
    chosen, arguments = parser.parse_known_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as hidden:
        (Path(hidden) / "numba.py").write_text(HIDDEN)
        if chosen.quick or not chosen.slow:
            arguments = ["-m", "delicate" if chosen.quick else "not slow", *arguments]
        return sum(not passes(setting, arguments) for setting in settings(hidden, chosen.quick))


if __name__ == "__main__":
    sys.exit(main())
