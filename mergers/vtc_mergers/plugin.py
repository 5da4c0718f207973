"""Register the shipped token mergers and budgets, as strings so that torch is not imported."""

import vtc


@vtc.hookimpl
def vtc_register_mergers() -> dict[str, str]:
    return {
        "cdpruner": "vtc_mergers.cdpruner:CDPruner",
        "dfm": "vtc_mergers.dfm:DFM",
        "divprune": "vtc_mergers.divprune:DivPrune",
        "downsample": "vtc_mergers.downsample:Downsample",
        "drop": "vtc_mergers.drop:Drop",
        "dycoke": "vtc_mergers.dycoke:DyCoke",
        "evs": "vtc_mergers.evs:EVS",
        "fastvid": "vtc_mergers.fastvid:FastVID",
        "flashvid": "vtc_mergers.flashvid:FlashVID",
        "hico": "vtc_mergers.hico:HiCo",
        "holitom": "vtc_mergers.holitom:HoliTom",
        "llama_vid": "vtc_mergers.llama_vid:LlamaVid",
        "mean_pool": "vtc_mergers.mean_pool:MeanPool",
        "memory": "vtc_mergers.memory:Memory",
        "perceiver": "vtc_mergers.perceiver:Perceiver",
        "q_former": "vtc_mergers.q_former:QFormer",
        "random": "vtc_mergers.random_patches:RandomPatches",
        "similarity_prune": "vtc_mergers.similarity_prune:SimilarityPrune",
        "spatial_pool": "vtc_mergers.spatial_pool:SpatialPool",
        "tome": "vtc_mergers.tome:ToMe",
        "vcast": "vtc_mergers.vcast:VCast",
        "vidcom2": "vtc_mergers.vidcom2:VidCom2",
    }


@vtc.hookimpl
def vtc_register_budgets() -> dict[str, str]:
    return {
        "even": "vtc_mergers.budgets:Even",
        "evs": "vtc_mergers.evs:EVSBudget",
        "fastvid": "vtc_mergers.fastvid:FastVIDBudget",
        "foveated": "vtc_mergers.budgets:Foveated",
        "holitom": "vtc_mergers.holitom:HoliTomBudget",
        "vcast": "vtc_mergers.vcast:VCastBudget",
        "vidcom2": "vtc_mergers.vidcom2:VidCom2Budget",
    }
