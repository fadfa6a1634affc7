"""Pictures need OpenGL: on a GPU EGL, without one Debian's libosmesa6. Which of them works here is found by trying."""

import functools
import os
import subprocess
import sys

from plumbing.cli import ROOT, BadInput

MEND = "on Debian or Ubuntu: apt-get install libosmesa6"


def find() -> bool:
    """Find an OpenGL platform that MuJoCo can render with, and choose it for this process and its workers."""
    asked = os.environ.get("MUJOCO_GL")
    for name in [asked] if asked else ["glfw"] if sys.platform == "darwin" else ["egl", "osmesa"]:
        if _works(name):
            os.environ["MUJOCO_GL"] = name
            return True
    return False


@functools.cache
def _works(name: str) -> bool:
    """Tried in a process of its own: a missing driver may end the process instead of raising. In our folder: with -c,
    Python imports from the current one first, and a mujoco.py that lies there would be run."""
    probe = "import mujoco; c = mujoco.GLContext(64, 64); c.make_current(); c.free()"
    environment = {**os.environ, "MUJOCO_GL": name}
    return subprocess.run([sys.executable, "-c", probe], env=environment, cwd=ROOT, capture_output=True).returncode == 0


def need() -> None:
    """BadInput where no picture can be made."""
    if not find():
        raise BadInput(f"this needs pictures, and MuJoCo finds no OpenGL here; {MEND}")
