"""All benchmarks, as one Markdown table. The exit code tells whether every goal was met."""
import os
import platform

import bench_backtest
import bench_dashboard
import bench_demo
import bench_engine
import bench_features
import bench_help
import bench_journal
import bench_orders
import bench_prediction
import bench_pretrade
import bench_risk
import bench_serving
import bench_training
from measure import table


def main() -> int:
    """Measure, print, and judge."""
    benches = (bench_journal, bench_help, bench_demo, bench_dashboard, bench_engine, bench_orders, bench_pretrade, bench_risk,
               bench_backtest, bench_prediction, bench_serving, bench_training, bench_features)
    rows = [row for bench in benches for row in bench.measure()]
    print(f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}; median (quartiles)\n")
    print(table(rows))
    return 0 if all(r.met for r in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
