"""Pictures show themselves: in a real Jupyter kernel without a magic, and in a window from a script."""

import base64
import gc
import os
import subprocess
import sys
import warnings
import weakref

import numpy as np
import pytest

import stability as st

LAW = st.exit_time(rate=0.5, diffusion=0.05, radius=1.0)

WINDOW = """
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg


class FigureManager(FigureManagerBase):
    def show(self):
        print("window", self.num, self.canvas.figure.get_suptitle()[:10])

    @classmethod
    def start_main_loop(cls):
        from matplotlib._pylab_helpers import Gcf

        print("open", len(Gcf.figs))
        Gcf.destroy_all()


class FigureCanvas(FigureCanvasAgg):
    required_interactive_framework = "headless"
    manager_class = FigureManager
"""
"""A toolkit whose windows say that they are open, and are closed at once."""


def script(code, tmp_path, **environment):
    """What a script prints on a machine without a display, warnings being errors."""
    (tmp_path / "a_toolkit.py").write_text(WINDOW)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    alone = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=alone | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A real kernel on loopback, as a notebook starts one: nothing was imported, no magic was run."""
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    manager = pytest.importorskip("jupyter_client.manager", reason="jupyter_client is not installed")
    home = str(tmp_path_factory.mktemp("kernel"))
    places = dict.fromkeys(("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"), home)
    runtime = {"JUPYTER_RUNTIME_DIR": home, "JUPYTER_PLATFORM_DIRS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (places | runtime).items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.delenv("MPLBACKEND", raising=False)
        started, client = manager.start_new_kernel(kernel_name="python3", startup_timeout=60)
        try:
            yield client
        finally:
            client.stop_channels()
            started.shutdown_kernel(now=True)
            started.cleanup_resources()


def said(kernel, code):
    """The messages that a cell sends while it runs, by kind; an error in it fails the test."""
    messages = []
    reply = kernel.execute_interactive(code, timeout=120, output_hook=messages.append)
    assert reply["content"]["status"] == "ok", reply["content"]
    return {message["msg_type"]: message["content"] for message in messages}


def size(png):
    """Width and height, from the header of a PNG."""
    assert png.startswith(b"\x89PNG\r\n")
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


class TestInANotebook:
    def test_the_last_line_of_a_cell_is_displayed(self, kernel):
        said(kernel, "import stability as st\nlaw = st.exit_time(rate=0.5, diffusion=0.05, radius=1.0)")
        told = said(kernel, "st.plot(law)")
        width, height = size(base64.b64decode(told["execute_result"]["data"]["image/png"]))
        assert 400 < width < 900
        assert height > 200
        assert "display_data" not in told  # once, not twice

    def test_show_displays_it_in_the_middle_of_a_cell(self, kernel):
        told = said(kernel, "import stability as st\nst.plot(law).show()\nNone")
        assert size(base64.b64decode(told["display_data"]["data"]["image/png"]))[0] > 400
        assert "execute_result" not in told
        assert "stream" not in told  # no warning either

    def test_a_picture_that_is_only_saved_is_not_displayed(self, kernel):
        told = said(kernel, "import io\nst.plot(law).savefig(io.BytesIO())")
        assert not {"display_data", "execute_result"} & told.keys()


class TestFromAScript:
    CODE = "import stability as st\nfigure = st.plot(st.exit_time(rate=0.5, diffusion=0.05, radius=1.0))\n"

    @pytest.mark.slow
    def test_show_opens_a_window_and_waits_until_it_is_closed(self, tmp_path):
        """A user's own figure keeps its number; afterwards the picture can still be saved."""
        done = (
            "from matplotlib import pyplot\npyplot.figure(7)\nfigure.show()\nprint(pyplot.get_fignums())\n"
            "figure.savefig('after.png')"
        )
        told = script(self.CODE + done, tmp_path, MPLBACKEND="module://a_toolkit")
        assert told.splitlines()[-3:] == ["window 8 First exit", "open 2", "[]"]
        assert size((tmp_path / "after.png").read_bytes())[0] > 400

    @pytest.mark.slow
    def test_without_a_display_it_says_what_to_do_in_one_sentence(self, tmp_path):
        """Whether matplotlib was asked for a toolkit that needs one, or for none."""
        code = (
            f"{self.CODE}import matplotlib, warnings\nfor name in ('tkagg', 'agg'):\n"
            "    with warnings.catch_warnings(record=True) as told:\n"
            "        warnings.simplefilter('always')\n"
            "        matplotlib.rcParams['backend'] = name\n        figure.show()\n"
            "    print(*(one.message for one in told))"
        )
        told = 'There is no display to open a window on: save the picture with .savefig("picture.png").'
        assert script(code, tmp_path).splitlines() == [told, told]


@pytest.mark.slow
def test_pictures_leave_nothing_behind():
    """However many are drawn, no figure stays in pyplot or anywhere else."""
    from matplotlib import pyplot

    study, drawn = LAW.data(), []
    for _ in range(100):
        figure = st.plot(study)
        drawn.append(weakref.ref(figure))
    figure._repr_png_()  # not even one that was displayed
    del figure
    gc.collect()
    assert not any(one() for one in drawn)
    assert pyplot.get_fignums() == []


def test_a_picture_is_a_figure_like_any_other(tmp_path):
    from matplotlib.figure import Figure

    figure = st.plot(LAW)
    assert isinstance(figure, Figure)
    for name in ("a.png", "a.svg", "a.pdf"):
        figure.savefig(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.axes[0].plot(np.arange(3.0))
        assert size(figure._repr_png_())[0] > 400


def test_a_progress_bar_is_drawn_below_the_cell_and_gone_at_the_end(kernel):
    drawn = []

    def keep(message):
        if message["msg_type"] == "update_display_data":
            drawn.append(message["content"]["data"]["text/html"])
        assert message["msg_type"] != "stream", message["content"]["text"]  # no word of missing widgets

    code = """
    import stability as st
    flow = st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(gradient=1.0), step=0.1)
    st.simulate(flow, start=[0.0], t_end=1.0, paths=2000, progress=True);
    """
    reply = kernel.execute_interactive(code, timeout=120, output_hook=keep)
    assert reply["content"]["status"] == "ok", reply["content"]
    assert "paths <progress" in drawn[0]
    assert drawn[-1] == ""
