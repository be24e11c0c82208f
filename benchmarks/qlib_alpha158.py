"""qlib's own Alpha158, run by an interpreter that has it. Argument: a folder with the bars as qlib stores them. Prints seconds, megabytes
and the shape of what it computed.
"""
import resource
import sys
import time


def peak() -> float:
    """The most memory that this process or one of its children had, MB."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def main(folder: str) -> None:
    """Compute all 158 of all instruments, on all cores."""
    import qlib
    from qlib.contrib.data.loader import Alpha158DL
    from qlib.data import D

    qlib.init(provider_uri=folder, region="us", expression_cache=None, dataset_cache=None, kernels=2, logging_level=40)
    price = {"windows": [0], "feature": ["OPEN", "HIGH", "LOW", "VWAP"]}
    fields, _ = Alpha158DL.get_feature_config({"kbar": {}, "price": price, "rolling": {}})
    before, started = peak(), time.perf_counter()
    table = D.features(D.instruments("all"), fields, freq="day")
    print(time.perf_counter() - started, peak() - before, *table.shape)


if __name__ == "__main__":
    main(sys.argv[1])
