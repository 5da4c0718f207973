"""Register the shipped frame selectors, as strings so that torch is not imported."""

import vtc


@vtc.hookimpl
def vtc_register_selectors() -> dict[str, str]:
    return {
        "aks": "vtc_selectors.aks:AKS",
        "dino_diff": "vtc_selectors.dino_diff:DinoDiff",
        "dks": "vtc_selectors.dks:DKS",
        "kmeans": "vtc_selectors.kmeans:KMeans",
        "mmr": "vtc_selectors.mmr:MMR",
        "query_guided": "vtc_selectors.query_guided:QueryGuided",
        "scene_change": "vtc_selectors.scene_change:SceneChange",
        "uniform": "vtc_selectors.uniform:Uniform",
    }
