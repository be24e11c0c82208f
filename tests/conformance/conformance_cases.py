"""Sixty small notebooks, each made by a function: outputs of all kinds, errors, processes, threads, libraries.

A maker returns the sources of its cells; a cell with tags is a pair (source, tags). What a case needs beside its cells stands in its decorator.
"""
# ruff: noqa: E501  the cells' sources are kept on one line each
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Cell = str | tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class Case:
    """One notebook, and how it is run."""

    name: str
    make: Callable[[], list[Cell]]
    parameters: dict[str, Any] = field(default_factory=dict)
    cell_seconds: float | None = None  # time-out of a cell
    run_seconds: float | None = None  # of the whole run: only our own engine has one, so it is compared with itself on an ordinary kernel
    memory_mb: float | None = None  # the same
    streams_apart: bool = False  # stdout and stderr are compared each for itself: their order depends on when each is flushed
    dies: bool = False  # the kernel ends before its notebook
    needs: str = ""  # a library that may be absent


CASES: dict[str, Case] = {}


def case(**how: Any) -> Callable[[Callable[[], list[Cell]]], Callable[[], list[Cell]]]:
    """Register a maker under its own name."""

    def register(make: Callable[[], list[Cell]]) -> Callable[[], list[Cell]]:
        CASES[make.__name__] = Case(make.__name__, make, **how)
        return make

    return register


# ---------------------------------------------------------------- streams
@case()
def stdout() -> list[Cell]:
    return ["print('one')\nprint('two', end='')", "print()\nprint('three', flush=True)", "import sys; sys.stdout.write('four')"]


@case()
def stderr() -> list[Cell]:
    return ["import sys\nprint('wrong', file=sys.stderr)", "sys.stderr.write('worse\\n')"]


@case(streams_apart=True)
def interleaved() -> list[Cell]:
    return ["import sys\nfor i in range(20):\n    print(i)\n    print(-i, file=sys.stderr)"]


@case()
def carriage_returns() -> list[Cell]:
    return ["for i in range(100):\n    print(f'\\r{i} %', end='')\nprint()", "print('abc\\b\\bX')", "print('\\x1b[31mred\\x1b[0m plain')"]


@case()
def unicode_text() -> list[Cell]:
    return ["print('Größe Ω 漢字 🙂 e\\u0301 \\u202eabc')", "'\\ud83d'.encode('utf-8', 'surrogatepass')", "名 = 3\n名 + 1", "print('\\x00\\x01\\x7f')"]


@case()
def empty_cells() -> list[Cell]:
    return ["", "   \n", "# only a comment", "pass", "None", "x = 1;", "x;", "x"]


@case()
def big_output_20_mb() -> list[Cell]:
    return ["for i in range(200):\n    print('x' * 104_857)"]


@case()
def hundred_thousand_lines() -> list[Cell]:
    return ["for i in range(100_000):\n    print(i)"]


@case()
def log_lines() -> list[Cell]:
    return ["import logging, sys\nlogging.basicConfig(stream=sys.stderr, level='INFO', format='%(levelname)s %(name)s %(message)s', force=True)\n"
            "logging.getLogger('desk').info('seen')\nlogging.debug('not seen')",
            "try:\n    1 / 0\nexcept ZeroDivisionError:\n    logging.exception('failed')"]


@case()
def shown_warnings() -> list[Cell]:
    return ["import warnings\nwarnings.warn('careful')\nwarnings.warn('old', DeprecationWarning)",
            "def f():\n    warnings.warn('in a function', stacklevel=2)\nf(); f()", "warnings.filters[:2]"]


# ---------------------------------------------------------------- displays
@case()
def rich_displays() -> list[Cell]:
    return ["from IPython.display import HTML, JSON, Javascript, Latex, Markdown, Math, SVG, display\n"
            "display(HTML('<b>b</b>'), Markdown('*m*'), Latex('$x$'), Math('y'))",
            "SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"><rect/></svg>')", "display(JSON({'a': [1, None]}))", "Javascript('1')"]


@case()
def png_image() -> list[Cell]:
    return ["import struct, zlib\nfrom IPython.display import Image\ndef chunk(kind, data):\n"
            "    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))\n"
            "raw = b''.join(b'\\x00' + bytes([x, 0, 255 - x]) * 8 for x in range(8))\n"
            "png = b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 8, 8, 8, 2, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(raw)) "
            "+ chunk(b'IEND', b'')\nImage(png)", "Image(png, width=20, alt='eight')"]


@case()
def plotly_figure() -> list[Cell]:
    return ["import plotly.graph_objects as go\nimport plotly.io as pio\npio.renderers.default = 'plotly_mimetype'\n"
            "go.Figure(go.Bar(x=['a', 'b'], y=[1, 2]), layout={'title': 'T'})", "go.Figure(go.Scatter(y=[3, 1, 2])).show()"]


@case()
def pandas_tables() -> list[Cell]:
    return ["import pandas as pd\nframe = pd.DataFrame({'a': [1, 2.5, None], 'b': ['x', None, 'ü']}, index=pd.date_range('2024-01-01', periods=3))\nframe",
            "frame.describe(include='all')", "frame['a']", "frame.style.format(precision=1).set_uuid('fixed').highlight_max(subset=['a'])"]


@case()
def large_table() -> list[Cell]:
    return ["import numpy as np, pandas as pd\npd.DataFrame(np.arange(60_000).reshape(3000, 20))", "pd.set_option('display.max_rows', 2000)\n"
            "pd.DataFrame({'n': range(1500)})"]


@case()
def own_reprs() -> list[Cell]:
    return ["class Many:\n    def _repr_mimebundle_(self, include=None, exclude=None):\n        return {'text/plain': 'p', 'application/x-desk+json': {'a': 1}}, "
            "{'application/x-desk+json': {'k': 2}}\nMany()",
            "class Broken:\n    def __repr__(self):\n        raise ValueError('no words')\nBroken()",
            "class Half:\n    def _repr_html_(self):\n        raise KeyError('h')\n    def __repr__(self):\n        return 'half'\nHalf()"]


@case()
def display_updates() -> list[Cell]:
    return ["from IPython.display import display, update_display\nh = display('first', display_id='one')", "update_display('second', display_id='one')",
            "g = display('a', display_id=True)\ng.update('b')\ng.display('c')"]


@case()
def cleared_output() -> list[Cell]:
    return ["from IPython.display import clear_output\nprint('gone')\nclear_output()\nprint('stays')",
            "for i in range(5):\n    clear_output(wait=True)\n    print(i)", "print('kept')\nclear_output(wait=True)"]


@case(needs="ipywidgets")
def widgets_state() -> list[Cell]:
    return ["import ipywidgets as w\nbox = w.VBox([w.IntSlider(3, description='n'), w.Label('ready')])\nbox", "box.children[0].value = 7"]


@case(needs="ipywidgets")
def output_widget() -> list[Cell]:
    return ["import ipywidgets as w\nout = w.Output()\nout", "with out:\n    print('inside')\nprint('outside')"]


@case(needs="matplotlib")
def matplotlib_figure() -> list[Cell]:
    return ["%matplotlib inline\nimport matplotlib\nmatplotlib.rcParams['svg.hashsalt'] = 'fixed'\nimport matplotlib.pyplot as plt\n"
            "plt.plot([1, 3, 2]); plt.title('T')", "plt.get_backend(), plt.get_fignums()"]


@case()
def rich_return_values() -> list[Cell]:
    return ["{'b': 1, 'a': [1, 2]}", "list(range(2000))[:1100]", "'x' * 3000", "print", "type", "lambda: 0", "...", "1, 'two'", "_ , __, Out[1]"]


# ---------------------------------------------------------------- errors
@case()
def plain_error() -> list[Cell]:
    return ["def f(x):\n    return 1 / x\nf(0)", "print('never')"]


@case()
def syntax_error() -> list[Cell]:
    return ["x = (1,\ny = 2", "print('never')"]


@case()
def indentation_error() -> list[Cell]:
    return ["if True:\nprint('x')"]


@case()
def name_error_with_hint() -> list[Cell]:
    return ["number = 1\nnumbr"]


@case()
def chained_errors() -> list[Cell]:
    return ["def g():\n    raise KeyError('inner')\ndef f():\n    try:\n        g()\n    except KeyError as e:\n        raise ValueError('outer') from e\nf()"]


@case()
def error_while_handling() -> list[Cell]:
    return ["try:\n    {}['a']\nexcept KeyError:\n    int('x')"]


@case()
def error_group() -> list[Cell]:
    return ["raise ExceptionGroup('several', [ValueError('a'), TypeError('b')])"]


@case()
def coloured_error() -> list[Cell]:
    return ["class Limit(Exception):\n    def __str__(self):\n        return '\\x1b[31mover\\x1b[0m\\nsecond line'\n"
            "    def _render_traceback_(self):\n        return ['its own traceback']\nraise Limit()"]


@case()
def error_with_notes() -> list[Cell]:
    return ["e = ValueError('x')\ne.add_note('a note')\nraise e"]


@case()
def error_whose_text_fails() -> list[Cell]:
    return ["class Bad(Exception):\n    def __str__(self):\n        raise RuntimeError('no text')\nraise Bad()"]


@case()
def system_exit() -> list[Cell]:
    return ["import sys\nprint('before')\nsys.exit(3)", "print('never')"]


@case()
def keyboard_interrupt() -> list[Cell]:
    return ["raise KeyboardInterrupt", "print('never')"]


@case()
def deep_recursion() -> list[Cell]:
    return [("import sys\nsys.setrecursionlimit(300)\ndef f(n):\n    return f(n + 1)\nf(0)", ("raises-exception",)),
            "sys.setrecursionlimit(3000)\nsys.getrecursionlimit()"]


@case()
def raises_exception_tag() -> list[Cell]:
    return [("1 / 0", ("raises-exception",)), "print('goes on')", ("print('no error at all')", ("raises-exception",)), "1 / 0"]


@case()
def skip_tags() -> list[Cell]:
    return [("print('skipped')", ("skip-execution",)), "print('run')", ("print('hidden')", ("remove_cell", "hide-input"))]


@case()
def assertion_and_warning_as_error() -> list[Cell]:
    return [("assert 1 == 2, 'numbers'", ("raises-exception",)), "import warnings\nwarnings.simplefilter('error')\nwarnings.warn('as an error')"]


# ---------------------------------------------------------------- parameters and surroundings
@case(parameters={"a": 3, "b": 2.5, "c": "tëxt 'quoted' \"twice\" \\ {x}", "d": True, "e": None, "f": ["x", "y"], "g": {"k": [1, None]}, "h": -0.0, "i": 10**30})
def typed_parameters() -> list[Cell]:
    return [("a: int = 1\nb: float = 1.0\nc: str = ''\nd: bool = False\ne: str | None = ''\nf: list = []\ng: dict = {}\nh: float = 1.0\ni: int = 0", ("parameters",)),
            "for v in (a, b, c, d, e, f, g, h, i):\n    print(type(v).__name__, repr(v))"]


@case()
def surroundings() -> list[Cell]:
    return ["import os, sys\n__name__, __doc__, '__file__' in globals(), sys.stdin is not None, sys.stdin.isatty(), sys.flags.optimize",
            "os.path.basename(os.getcwd()), os.environ.get('TERM'), os.environ.get('CONFORMANCE'), os.environ.get('PAGER')",
            "sys.path[0] == '' or sys.path[0], sys.executable == os.environ['CONFORMANCE_PYTHON'], os.getsid(0) != os.getppid()",
            "import threading, signal\nthreading.current_thread() is threading.main_thread(), signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGPIPE)",
            "os.umask(0o22) in (0o22, 0o77, 0o02), sys.getdefaultencoding(), sys.stdout.encoding, sys.getfilesystemencoding()",
            "sys.dont_write_bytecode, sys.getswitchinterval(), __import__('locale').getlocale(), __import__('gc').isenabled()"]


@case()
def command_line() -> list[Cell]:
    return ["import os, sys\n[os.path.basename(a) if '/' in a else a for a in sys.argv[:2]], len(sys.argv)"]


@case()
def seeds() -> list[Cell]:
    return ["import random, numpy as np\nrandom.seed(1); np.random.seed(1)\nrandom.random(), np.random.rand(), np.random.default_rng(7).random()",
            "hash(3), hash(2.5), hash((1, 2)), len({hash('x'), hash('x')})"]


@case()
def randomness_is_fresh() -> list[Cell]:
    return ["import os, random, uuid\nlen({random.random(), random.random()}), len(os.urandom(8)), uuid.uuid4().version"]


@case()
def temporary_files_and_atexit() -> list[Cell]:
    return ["import atexit, tempfile, pathlib\nwith tempfile.TemporaryDirectory() as d:\n    p = pathlib.Path(d, 'x'); p.write_text('y')\n    print(p.read_text())\n"
            "p.exists()", "atexit.register(lambda: pathlib.Path('left.txt').write_text('at exit'));", "pathlib.Path('seen.txt').write_text('now')"]


@case()
def memory_and_weakrefs() -> list[Cell]:
    return ["import gc, weakref\nclass A: pass\na = A(); a.me = a; r = weakref.ref(a)\ndel a\ngc.collect() > 0, r() is None", "gc.get_threshold()",
            "b = bytearray(50_000_000); len(b)"]


@case()
def magics() -> list[Cell]:
    return ["%%capture kept\nprint('caught')", "kept.stdout", "%pwd\nx = 3", "%%timeit -n1 -r1 -q\npass", "%who_ls", "!echo from the shell && echo wrong >&2",
            "lines = !printf 'a\\nb\\n'\nlines", "%env CONFORMANCE", "%%bash\necho bash; exit 0", "%load_ext autoreload\n%autoreload 0"]


@case()
def timing_magic() -> list[Cell]:
    return ["%time sum(range(10))", "%%time\nprint('x')"]


@case()
def top_level_await() -> list[Cell]:
    return ["import asyncio\nasync def f():\n    await asyncio.sleep(0.01)\n    return 5\nawait f()", "await asyncio.gather(f(), f())",
            "asyncio.get_running_loop().is_running()", "asyncio.run(f())"]


@case()
def refused_input() -> list[Cell]:
    return [("input('name? ')", ("raises-exception",)), "import getpass\ngetpass.getpass()"]


# ---------------------------------------------------------------- threads, processes, signals
@case()
def printing_threads() -> list[Cell]:
    return ["import threading\ndef work(i):\n    print(f'thread {i}')\nfor i in range(8):\n    t = threading.Thread(target=work, args=(i,)); t.start(); t.join()",
            "def fail():\n    raise ValueError('in a thread')\nt = threading.Thread(target=fail, name='failing'); t.start(); t.join()",
            "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as pool:\n    print(sum(pool.map(lambda x: x * x, range(1000))))"]


@case(streams_apart=True)
def subprocesses() -> list[Cell]:
    return ["import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(1 + 1)'], capture_output=True, text=True).stdout",
            "subprocess.run(['sh', '-c', 'echo out; echo err >&2; exit 3']).returncode", "subprocess.run(['cat'], input='x', text=True, stdout=-1).stdout"]


@case()
def forked_children() -> list[Cell]:
    return ["import os\nr, w = os.pipe()\npid = os.fork()\nif pid == 0:\n    os.write(w, b'from the child'); os._exit(7)\n"
            "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), os.read(r, 99))"]


@case()
def multiprocessing_pools() -> list[Cell]:
    return ["import math, multiprocessing as mp\nwith mp.get_context('fork').Pool(2) as pool:\n    print(pool.map(math.factorial, range(6)))",
            "with mp.get_context('spawn').Pool(1) as pool:\n    print(pool.map(math.factorial, range(6)))", "mp.current_process().name, mp.parent_process()"]


@case()
def signals() -> list[Cell]:
    return ["import os, signal\ngot = []\nsignal.signal(signal.SIGUSR1, lambda *a: got.append(a[0]))\nos.kill(os.getpid(), signal.SIGUSR1)\ngot",
            "signal.signal(signal.SIGALRM, lambda *a: (_ for _ in ()).throw(TimeoutError('rang')))\nsignal.setitimer(signal.ITIMER_REAL, 0.2)\nimport time\ntime.sleep(5)"]


@case()
def interrupted_by_itself() -> list[Cell]:
    return ["import os, signal, time\nprint('before')\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)", "print('never')"]


@case(dies=True)
def kernel_exits_at_once() -> list[Cell]:
    return ["print('before', flush=True)\nimport time; time.sleep(0.5)\nimport os\nos._exit(5)", "print('never')"]


@case(dies=True)
def kernel_kills_itself() -> list[Cell]:
    return ["import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "print('never')"]


@case(dies=True)
def kernel_segfaults() -> list[Cell]:
    return ["import ctypes\nctypes.string_at(0)", "print('never')"]


@case(cell_seconds=4)
def cell_takes_too_long() -> list[Cell]:
    return ["print('before')", "import time\ntime.sleep(60)", "print('never')"]


@case(run_seconds=15)
def run_takes_too_long() -> list[Cell]:
    return ["print('before')", "import time\ntime.sleep(60)", "print('never')"]


@case(memory_mb=600)
def too_much_memory() -> list[Cell]:
    return [("x = bytearray(3_000_000_000)", ("raises-exception",)), "len(bytearray(50_000_000))"]


# ---------------------------------------------------------------- libraries
@case()
def lightgbm_training() -> list[Cell]:
    return ["import lightgbm as lgb, numpy as np\nrng = np.random.default_rng(0)\nX = rng.normal(size=(2000, 10)); y = (X[:, 0] + rng.normal(size=2000) > 0) * 1\n"
            "m = lgb.train({'objective': 'binary', 'num_threads': 2, 'deterministic': True, 'force_row_wise': True, 'verbosity': -1, 'seed': 1}, "
            "lgb.Dataset(X, y), 30)\nm.predict(X[:3]).round(10).tolist()", "m.num_trees(), sorted(m.feature_importance().tolist())"]


@case()
def blas_matmul() -> list[Cell]:
    return ["import numpy as np\na = np.arange(640_000, dtype=float).reshape(800, 800) / 1e5\nfloat((a @ a).trace())", "np.linalg.eigvalsh(a[:50, :50] + a[:50, :50].T)[-1].round(8)",
            "import scipy.linalg\nfloat(scipy.linalg.det(np.eye(50) * 2)), float(np.linalg.norm(np.linalg.inv(a[:60, :60] + np.eye(60)))).__round__(8)"]


@case()
def parquet_and_sqlite() -> list[Cell]:
    return ["import pandas as pd, sqlite3\npd.DataFrame({'a': range(1000)}).to_parquet('x.parquet')\nint(pd.read_parquet('x.parquet')['a'].sum())",
            "c = sqlite3.connect('x.db'); c.execute('create table t (x)'); c.executemany('insert into t values (?)', [(i,) for i in range(9)]); c.commit()\n"
            "c.execute('select sum(x) from t').fetchall()", "import pyarrow as pa, pyarrow.compute as pc\npc.sum(pa.array(range(10_000))).as_py()"]


@case()
def the_librarys_own() -> list[Cell]:
    return ["from gpt_trader.core.outcome import Outcome\nOutcome('warning', 'looks odd', {'n': 3, 'share': 0.25})",
            "from gpt_trader.dataflow.providers import EmbeddedProvider\nEmbeddedProvider().bars('IBM').tail(2)",
            "from gpt_trader.core.outcome import UsageError\nraise UsageError('that will not do', where='here', mend='Do this')"]
