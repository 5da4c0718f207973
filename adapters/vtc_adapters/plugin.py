"""Register the shipped adapters, by ``config.model_type``."""

import vtc


@vtc.hookimpl
def vtc_register_adapters() -> dict[str, str]:
    return {
        "gemma3": "vtc_adapters.gemma3:Gemma3Adapter",
        "idefics3": "vtc_adapters.idefics3:Idefics3Adapter",
        "internvl": "vtc_adapters.internvl:InternVLAdapter",
        "llava": "vtc_adapters.llava:LlavaImageAdapter",
        "llava_next_video": "vtc_adapters.llava_next_video:LlavaNextVideoAdapter",
        "llava_onevision": "vtc_adapters.llava_onevision:LlavaOnevisionAdapter",
        "paligemma": "vtc_adapters.paligemma:PaliGemmaAdapter",
        "qwen2_5_vl": "vtc_adapters.qwen2_vl:Qwen2VLAdapter",
        "qwen2_vl": "vtc_adapters.qwen2_vl:Qwen2VLAdapter",
        "qwen3_5": "vtc_adapters.qwen3_vl:Qwen35Adapter",
        "qwen3_5_moe": "vtc_adapters.qwen3_vl:Qwen35Adapter",
        "qwen3_vl": "vtc_adapters.qwen3_vl:Qwen3VLAdapter",
        "qwen3_vl_moe": "vtc_adapters.qwen3_vl:Qwen3VLAdapter",
        "smolvlm": "vtc_adapters.smolvlm:SmolVLMAdapter",
        "video_llava": "vtc_adapters.video_llava:VideoLlavaAdapter",
    }


@vtc.hookimpl
def vtc_register_models() -> dict[str, str]:
    return {"shape": "vtc_adapters.shapes:build", "tiny": "vtc_adapters.tiny.models:build"}
