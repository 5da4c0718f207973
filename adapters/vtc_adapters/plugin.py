"""Registers the shipped adapters, by ``config.model_type``."""

import vtc


@vtc.hookimpl
def vtc_register_adapters() -> dict[str, str]:
    return {
        "llava_next_video": "vtc_adapters.llava_next_video:LlavaNextVideoAdapter",
        "llava_onevision": "vtc_adapters.llava_onevision:LlavaOnevisionAdapter",
        "qwen2_5_vl": "vtc_adapters.qwen2_vl:Qwen2VLAdapter",
        "qwen2_vl": "vtc_adapters.qwen2_vl:Qwen2VLAdapter",
        "qwen3_vl": "vtc_adapters.qwen3_vl:Qwen3VLAdapter",
        "qwen3_vl_moe": "vtc_adapters.qwen3_vl:Qwen3VLAdapter",
        "video_llava": "vtc_adapters.video_llava:VideoLlavaAdapter",
    }
