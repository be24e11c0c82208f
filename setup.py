"""Build gpt_trader from settings.ini; ship its notebooks inside the wheel."""
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
CONFIG = ConfigParser(delimiters=["="])
CONFIG.read(HERE / "settings.ini", encoding="utf-8")
SETTINGS = CONFIG["DEFAULT"]

# Notebooks that run as they are (the library's own notebooks are exported, not shipped).
SHIPPED = ("procedures", "playbooks", "reports", "dashboards/pages", "research")
# What is installed only for a purpose; core.extras says what each is good for, and names it where it is missing.
PURPOSES = ("lab", "dashboard", "notify", "telemetry", "keyring", "portfolio", "garch", "profile", "search", "alpaca", "venue", "serve",
            "docs")
# Each room that owns tables names its journal projection here; the journal finds it without importing upwards.
PROJECTIONS = {
    "approval": "gpt_trader.core.approval:PROJECTION",
    "models": "gpt_trader.ml.registry:PROJECTION",
    "permits": "gpt_trader.trading.halt:PROJECTION",
    "brokers": "gpt_trader.trading.active:PROJECTION",
    "orders": "gpt_trader.trading.orders:PROJECTION",
    "sessions": "gpt_trader.live.session:PROJECTION",
    "parameters": "gpt_trader.live.riskparameters:PROJECTION",
    "alerts": "gpt_trader.monitoring.alerts:PROJECTION",
    "silences": "gpt_trader.monitoring.silences:PROJECTION",
    "backups": "gpt_trader.ops.backup:PROJECTION",
    "incidents": "gpt_trader.runbook.incident:PROJECTION",
    "procedures": "gpt_trader.runbook.procedure:PROJECTION",
}


class BuildWithNotebooks(build_py):
    """Copy the executable notebooks into the package, where an installed gpt-trader finds them."""

    def run(self) -> None:
        super().run()
        if getattr(self, "editable_mode", False):
            return
        for folder in SHIPPED:
            source = HERE / "nbs" / folder
            for notebook in sorted(source.rglob("*.ipynb")) if source.is_dir() else []:
                target = Path(self.build_lib) / "gpt_trader" / "_notebooks" / notebook.relative_to(HERE / "nbs")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(notebook, target)


CLASSIFIERS = [
    "Development Status :: 3 - Alpha",
    "Environment :: Console",
    "Environment :: Web Environment",
    "Framework :: Jupyter",
    f"Intended Audience :: {SETTINGS['audience']}",
    f"Natural Language :: {SETTINGS['language']}",
    "Operating System :: POSIX",
    "Programming Language :: Python :: 3 :: Only",
    "Programming Language :: Python :: 3.11",
    "Topic :: Office/Business :: Financial :: Investment",
    "Topic :: System :: Monitoring",
    "Typing :: Typed",
]


def words(key: str) -> list[str]:
    return SETTINGS.get(key, "").split()


def extras() -> dict[str, list[str]]:
    """What each purpose needs; `all` of them together; and `dev`, which tests all of them."""
    purposes = {name: words(f"{name}_requirements") for name in PURPOSES}
    everything = sorted({requirement for wanted in purposes.values() for requirement in wanted})
    peers = {"bench": words("bench_requirements")}  # what benchmarks are measured against; no part of the product needs them
    return {**purposes, **peers, "all": everything, "dev": [*everything, *words("dev_requirements")]}


setup(
    name=SETTINGS["lib_name"],
    version=SETTINGS["version"],
    description=SETTINGS["description"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    author=SETTINGS["author"],
    author_email=SETTINGS["author_email"],
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    url=SETTINGS["git_url"],
    project_urls={"Documentation": SETTINGS["doc_host"] + SETTINGS["doc_baseurl"], "Source": SETTINGS["git_url"],
                  "Issues": SETTINGS["git_url"] + "/issues", "Changelog": SETTINGS["git_url"] + "/blob/main/CHANGELOG.md"},
    keywords=words("keywords"),
    classifiers=CLASSIFIERS,
    python_requires=">=" + SETTINGS["min_python"],
    packages=find_namespace_packages(include=["gpt_trader", "gpt_trader.*"], exclude=["*.__pycache__", "*.__pycache__.*"]),
    include_package_data=True,
    package_data={"gpt_trader": ["_data/**/*", "_notebooks/**/*", "py.typed"]},
    install_requires=words("requirements"),
    extras_require=extras(),
    entry_points={
        "console_scripts": words("console_scripts"),
        "gpt_trader.projections": [f"{name} = {target}" for name, target in PROJECTIONS.items()],
        "papermill.engine": ["gpt_trader = gpt_trader.runbook.warm:WarmEngine"],
        "jupyter_client.kernel_provisioners": ["gpt-trader-fork-provisioner = gpt_trader.runbook.provisioner:ForkProvisioner"],
        "nbdev": [f"{SETTINGS['lib_name']}={SETTINGS['lib_name']}._modidx:d"],
    },
    cmdclass={"build_py": BuildWithNotebooks},
    zip_safe=False,
)
