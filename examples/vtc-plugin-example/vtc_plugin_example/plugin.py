"""Register the parts, as strings so that `vtc --help` does not import torch."""

import vtc


@vtc.hookimpl
def vtc_register_selectors() -> dict[str, str]:
    return {"example_changes": "vtc_plugin_example.changes:Changes"}


@vtc.hookimpl
def vtc_register_mergers() -> dict[str, str]:
    return {"example_contrast": "vtc_plugin_example.contrast:Contrast"}
