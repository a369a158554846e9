"""transformers' LlamaForCausalLM of a shape (with QK norm: Qwen3's), and its tensors under our names."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM


def make_twin(shape, device="cpu"):
    """Random weights, larger than at the start of a training and with gains that are not 1, so that every part matters in the result."""
    config_class, model_class = (Qwen3Config, Qwen3ForCausalLM) if shape.qk_norm else (LlamaConfig, LlamaForCausalLM)
    config = config_class(
        vocab_size=shape.vocab, hidden_size=shape.width, intermediate_size=shape.inner, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim, max_position_embeddings=shape.context,
        rms_norm_eps=shape.eps, rope_parameters={"rope_type": "default", "rope_theta": shape.theta}, tie_word_embeddings=shape.tied,
        attention_bias=False, use_cache=False, attn_implementation="eager")
    with torch.device(device):
        model = model_class(config)
    if device != "meta":
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else 0.1 * noise)
    return model


def in_our_names(model, shape, tensor_of=lambda parameter: parameter.detach()):
    """tensor_of(parameter) for every parameter, joined where ours are: query, key and value; gate and up."""
    parameters = {name.removeprefix("model."): tensor_of(parameter) for name, parameter in model.named_parameters()}

    def take(*names):
        return torch.cat([parameters.pop(name + ".weight") for name in names])

    ours = {"embedding.weight": take("embed_tokens")}
    for i in range(shape.layers):
        theirs, block = f"layers.{i}.", f"blocks.{i}."
        ours[block + "attention.norm.weight"] = take(theirs + "input_layernorm")
        ours[block + "attention.qkv.weight"] = take(*(f"{theirs}self_attn.{name}_proj" for name in "qkv"))
        if shape.qk_norm:
            for name in ("q_norm", "k_norm"):
                ours[f"{block}attention.{name}.weight"] = take(f"{theirs}self_attn.{name}")
        ours[block + "attention.output.weight"] = take(theirs + "self_attn.o_proj")
        ours[block + "feed_forward.norm.weight"] = take(theirs + "post_attention_layernorm")
        ours[block + "feed_forward.gate_up.weight"] = take(theirs + "mlp.gate_proj", theirs + "mlp.up_proj")
        ours[block + "feed_forward.down.weight"] = take(theirs + "mlp.down_proj")
    ours["norm.weight"] = take("norm")
    if not shape.tied:
        ours["head.weight"] = take("lm_head")
    assert not parameters, f"without a counterpart: {list(parameters)}"
    return ours
