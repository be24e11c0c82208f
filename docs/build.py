"""Build the documentation: execute what changed, assemble the source, let Sphinx write the pages. No step reaches for the network.

    python docs/build.py                what `make docs` does
    python docs/build.py --no-execute   without running notebooks: outputs from the cache where it has them, else none
"""
import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from time import perf_counter

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_make"))

import notebooks  # noqa: E402
import pages  # noqa: E402
import samples  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=HERE / "_build", help="folder of source, cache and html (default: docs/_build)")
    parser.add_argument("--no-execute", action="store_true", help="run no notebook")
    parser.add_argument("--workers", type=int, default=2, help="notebooks that run at once")
    parser.add_argument("--fresh", action="store_true", help="let Sphinx read every page again")
    given = parser.parse_args()
    started = perf_counter()
    source, html, cache = given.to / "source", given.to / "html", Path(os.environ.get("GPT_TRADER_DOCS_CACHE") or given.to / "cache")
    if given.no_execute:
        outputs, ran = notebooks.cached(notebooks.library(), cache), samples.cached(cache)
    else:
        outputs = notebooks.executed(notebooks.library(), cache, workers=given.workers)
        ran = samples.executed(cache)
    print(f"notebooks: {len(outputs)} and {len(ran)} procedures, {perf_counter() - started:.1f} s", flush=True)
    pages.assemble(source, outputs, ran)
    if given.fresh:
        shutil.rmtree(given.to / "doctrees", ignore_errors=True)
        shutil.rmtree(html, ignore_errors=True)
    listed, known = "\n".join(sorted(p.relative_to(source).as_posix() for p in source.rglob("*") if p.suffix in (".md", ".ipynb"))), given.to / "pages.txt"
    every = [] if known.exists() and known.read_text(encoding="utf-8") == listed else ["-a"]  # every page shows the list of all pages
    command = [sys.executable, "-m", "sphinx", *every, "-b", "html", "-W", "--keep-going", "-q", "-j", str(given.workers),
               "-c", str(HERE), "-d", str(given.to / "doctrees"), str(source), str(html)]
    done = subprocess.run(command, check=False)
    if done.returncode == 0:
        known.write_text(listed, encoding="utf-8")
        print(f"{html / 'index.html'} ({perf_counter() - started:.1f} s)")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
