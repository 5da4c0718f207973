"""Registers the shipped token mergers, by name so that nothing heavy is imported."""

import vtc


@vtc.hookimpl
def vtc_register_mergers() -> dict[str, str]:
    return {
        "dfm": "vtc_mergers.dfm:DFM",
        "drop": "vtc_mergers.drop:Drop",
        "mean_pool": "vtc_mergers.mean_pool:MeanPool",
        "q_former": "vtc_mergers.q_former:QFormer",
    }
