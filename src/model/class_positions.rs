//! How many positions a text has where `config.json` does not say it: transformers saves a section of it without the values that are the
//! defaults of the section's class. Read off transformers 4.57.6.

/// `max_position_embeddings` of transformers' configuration class for `model_type`, the type of a section or of a whole model with a
/// section for texts; `None` for a type that is not known or has no limit.
pub(super) fn class_positions(model_type: &str) -> Option<usize> {
    Some(match model_type {
        "siglip" | "siglip_text_model" | "siglip2" | "siglip2_text_model" => 64,
        "clip"
        | "clip_text_model"
        | "clipseg"
        | "clipseg_text_model"
        | "metaclip_2"
        | "metaclip_2_text_model"
        | "groupvit"
        | "groupvit_text_model"
        | "xclip"
        | "xclip_text_model" => 77,
        "owlvit" | "owlvit_text_model" | "owlv2" | "owlv2_text_model" => 16,
        "altclip" | "altclip_text_model" => 514,
        "blip"
        | "blip_text_model"
        | "chinese_clip"
        | "chinese_clip_text_model"
        | "align"
        | "align_text_model"
        | "bert"
        | "roberta"
        | "xlm-roberta"
        | "camembert"
        | "electra"
        | "distilbert"
        | "mpnet"
        | "trocr"
        | "bert-generation"
        | "rembert"
        | "megatron-bert"
        | "prophetnet"
        | "xlm-prophetnet" => 512,
        "gpt2" | "git" | "bart" | "mbart" | "biogpt" => 1024,
        "opt" | "xglm" | "gpt_neo" | "llama" => 2048,
        "big_bird" => 4096,
        "gemma" | "gemma2" => 8192,
        "qwen2" => 32768,
        _ => return None,
    })
}
