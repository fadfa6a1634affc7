"""Pictures need OpenGL: on a GPU EGL, without one Debian's libosmesa6. Which of them works here is found by trying."""

import functools
import os
import subprocess
import sys

from plumbing.cli import ROOT, BadInput

INSTALL = "on Debian or Ubuntu: apt-get install libosmesa6"


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
    # With a picture's context: GLFW without a screen only warns, and leaves a GLContext that draws nothing.
    probe = (
        "import mujoco; c = mujoco.GLContext(64, 64); c.make_current(); "
        "mujoco.MjrContext(mujoco.MjModel.from_xml_string('<mujoco/>'), mujoco.mjtFontScale.mjFONTSCALE_100.value); "
        "c.free()"
    )
    environment = {**os.environ, "MUJOCO_GL": name}
    return subprocess.run([sys.executable, "-c", probe], env=environment, cwd=ROOT, capture_output=True).returncode == 0


def need() -> None:
    """BadInput where no picture can be made."""
    if not find():
        raise BadInput(f"this needs pictures, and MuJoCo finds no OpenGL here; {mend()}")


def mend(imported: bool = False) -> str:
    """What to do where nothing can be drawn. imported: MuJoCo has asked already, by itself, how to draw."""
    if asked := os.environ.get("MUJOCO_GL"):
        return f"MUJOCO_GL={asked} says how to draw: unset it, or name another (egl, osmesa)"
    return f"{'set MUJOCO_GL to egl or osmesa before anything imports MuJoCo; ' * imported}{INSTALL}"


def check_import() -> None:
    """One line, and exit code 2, where MuJoCo cannot even be imported because of what MUJOCO_GL says: every command
    imports it, before it can refuse anything."""
    try:
        import mujoco  # noqa: F401
    except (RuntimeError, ImportError, AttributeError) as error:
        if not os.environ.get("MUJOCO_GL"):
            raise
        print(f"error: {str(error).strip()}; {mend()}", file=sys.stderr)
        raise SystemExit(2) from None
