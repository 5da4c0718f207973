"""Registers the shipped frame selectors, by name so that nothing heavy is imported."""

import vtc


@vtc.hookimpl
def vtc_register_selectors() -> dict[str, str]:
    return {
        "dks": "vtc_selectors.dks:DKS",
        "query_guided": "vtc_selectors.query_guided:QueryGuided",
        "uniform": "vtc_selectors.uniform:Uniform",
    }
