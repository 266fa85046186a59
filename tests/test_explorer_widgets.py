"The explorer without a browser: its widgets, moved and read in this process."
import pytest

from dln_nb.experiments.description import Experiment
from dln_nb.explorer.explorer import Explorer

SETTING = Experiment(width=8, lr=.01, steps=100, runs=2)


@pytest.fixture(scope="module")
def explorer(): return Explorer(SETTING, dpi=40)


def test_a_control_changes_the_setting(explorer):
    depth = explorer.controls.fields["depth"]
    depth.value = 4
    assert explorer.experiment.depth == 4 and "depth=4" in explorer.page.lines.value
    depth.value = SETTING.depth
    assert explorer.experiment == SETTING and "dln_nb run --width 8" in explorer.page.lines.value


def test_a_bad_setting_cannot_be_run(explorer):
    rank = explorer.controls.fields["rank"]
    rank.value = 9
    assert explorer.page.run.disabled and "rank" in explorer.controls.messages["rank"].value
    with pytest.raises(ValueError, match="rank"): explorer.run()
    rank.value = 0
    assert not explorer.page.run.disabled and not explorer.controls.messages["rank"].value


def test_a_run_finishes_and_the_cursor_moves_the_figure(explorer):
    explorer.run().wait()
    page, end = explorer.page, bytes(explorer.page.image.value)
    assert explorer.comparison.phase == "finished" and "finished" in page.status.value
    assert end.startswith(b"\x89PNG") and page.cursor.value == page.cursor.max > 0
    page.cursor.value = 0
    assert bytes(page.image.value) != end
    page.cursor.value = page.cursor.max
    assert bytes(page.image.value) == end


def test_stop_ends_a_training(explorer):
    explorer.controls.automatic["steps"].value = False
    steps = explorer.controls.fields["steps"]
    steps.max = steps.value = 10_000_000
    explorer.run().stop()
    explorer.wait()
    assert explorer.comparison.phase == "stopped" and not explorer.page.run.disabled
