"""Register the shipped frame selectors, as strings so that torch is not imported."""

import vtc


@vtc.hookimpl
def vtc_register_selectors() -> dict[str, str]:
    return {
        "aks": "vtc_selectors.aks:AKS",
        "bolt": "vtc_selectors.bolt:Bolt",
        "dig": "vtc_selectors.dig:Dig",
        "dino_diff": "vtc_selectors.dino_diff:DinoDiff",
        "dks": "vtc_selectors.dks:DKS",
        "dks_next": "vtc_selectors.dks_next:DKSNext",
        "focus": "vtc_selectors.focus:Focus",
        "kmeans": "vtc_selectors.kmeans:KMeans",
        "mdp3": "vtc_selectors.mdp3:MDP3",
        "mmr": "vtc_selectors.mmr:MMR",
        "none": "vtc_selectors.no_keyframes:NoKeyframes",
        "qframe": "vtc_selectors.qframe:QFrame",
        "query_guided": "vtc_selectors.query_guided:QueryGuided",
        "random": "vtc_selectors.random_frames:RandomFrames",
        "scene_change": "vtc_selectors.scene_change:SceneChange",
        "uniform": "vtc_selectors.uniform:Uniform",
    }
