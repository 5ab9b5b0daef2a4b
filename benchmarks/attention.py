"""Transformers and recurrent networks for the coverage sweep: the fifth list, `transformers`. Random weights, small.

    pip install transformers==5.24.0 timm==1.0.31 torchvision==0.28.0

Each is of its library's own class, made narrow and shallow by its own settings.
"""

from __future__ import annotations

import importlib

import torch
from torch import nn
from zoo import Entry, import_torchvision

PLAIN = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
WORDS = {"vocab_size": 100, "max_position_embeddings": 40}
PICTURE = {**PLAIN, "image_size": 64, "patch_size": 8}
DECODER = {**WORDS, **PLAIN, "num_key_value_heads": 2}
HALVES = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}

TIMM = {  # name: settings
    "vit_tiny_patch16_224": {"img_size": 64, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4},
    "deit_tiny_distilled_patch16_224": {"img_size": 64, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4},
    "beit_base_patch16_224": {"img_size": 64, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4},
    "eva02_tiny_patch14_224": {"img_size": 56, "patch_size": 14, "embed_dim": 64, "depth": 3, "num_heads": 4},
    "swin_tiny_patch4_window7_224": {
        "img_size": 64,
        "window_size": 4,
        "embed_dim": 32,
        "depths": (2, 2),
        "num_heads": (2, 4),
    },
    "caformer_s18": {},
    "efficientvit_b0": {},
    "mobilevit_xxs": {},
    "maxvit_rmlp_pico_rw_256": {},
    "coatnet_nano_rw_224": {},
}
SIDES = {"caformer_s18": 64, "efficientvit_b0": 64, "mobilevit_xxs": 64, "maxvit_rmlp_pico_rw_256": 256}
PICTURES = {  # class: settings
    "ViTForImageClassification": PICTURE,
    "Dinov2ForImageClassification": {**PICTURE, "mlp_ratio": 2},
    "CLIPVisionModelWithProjection": PICTURE,
    "SwinForImageClassification": {
        "embed_dim": 32,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": 4,
        "image_size": 64,
        "patch_size": 4,
    },
    "SegformerForImageClassification": {"hidden_sizes": [16, 32, 64, 128], "decoder_hidden_size": 64},
}
TEXTS = {
    "BertForSequenceClassification": {**WORDS, **PLAIN},
    "RobertaForSequenceClassification": {**WORDS, **PLAIN},
    "DistilBertForSequenceClassification": {**WORDS, "dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 128},
    "AlbertForSequenceClassification": {**WORDS, **PLAIN, "embedding_size": 32},
    "GPT2LMHeadModel": {"vocab_size": 100, "n_positions": 40, "n_embd": 64, "n_layer": 3, "n_head": 4},
    "LlamaForCausalLM": DECODER,
    "MistralForCausalLM": DECODER,
    "Qwen2ForCausalLM": DECODER,
    "T5EncoderModel": {"vocab_size": 100, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 3, "num_heads": 4},
}


def entries() -> list[Entry]:
    """All of them, by library; fails where one of the libraries is not installed."""
    import_torchvision()
    return [*_timm(), *_pictures(), *_texts(), *_pairs(), *_torchvision(), *_torch()]


def _entry(name, make, shape, inputs=None):
    return Entry("transformers", name, make, shape, (), inputs)


def _timm():
    library = importlib.import_module("timm")
    found = []
    for name, settings in TIMM.items():
        side = settings.get("img_size") or SIDES.get(name, 224)
        found.append(_entry(f"timm.{name}", lambda n=name, s=settings: library.create_model(n, **s), (3, side, side)))
    return found


def _made(name, settings):
    kind = getattr(importlib.import_module("transformers"), name)
    return kind(kind.config_class(**settings))


def _pictures():
    return [_entry(name, lambda n=name, s=more: _made(n, s), (3, 64, 64)) for name, more in PICTURES.items()]


def _texts():
    uncached = {"use_cache": False}
    return [
        _entry(
            name,
            lambda n=name, s=more: _made(n, s | (uncached if n.endswith("LM") or n.endswith("Model") else {})),
            (1, 16),
            inputs=_words,
        )
        for name, more in TEXTS.items()
    ]


def _pairs():
    """Encoders with decoders, and sounds."""
    library = importlib.import_module("transformers")

    def detr():
        backbone = library.ResNetConfig(
            hidden_sizes=[32, 64, 96, 128],
            depths=[1, 1, 1, 1],
            embedding_size=32,
            layer_type="basic",
            out_features=["stage4"],
        )
        return _made(
            "DetrForObjectDetection",
            {**HALVES, "use_timm_backbone": False, "backbone_config": backbone, "num_queries": 10},
        )

    text = {**HALVES, **WORDS, "use_cache": False}
    t5 = {**TEXTS["T5EncoderModel"], "num_decoder_layers": 2, "use_cache": False, "decoder_start_token_id": 0}
    sound = {**HALVES, "vocab_size": 100, "num_mel_bins": 16, "max_source_positions": 32, "max_target_positions": 40}
    sound |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "use_cache": False}
    wave = {**PLAIN, "conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    return [
        _entry("DetrForObjectDetection", detr, (3, 64, 64)),
        _entry("T5ForConditionalGeneration", lambda: _made("T5ForConditionalGeneration", t5), (1, 16), _two_texts),
        _entry(
            "BartForConditionalGeneration", lambda: _made("BartForConditionalGeneration", text), (1, 16), _two_texts
        ),
        _entry(
            "WhisperForConditionalGeneration", lambda: _made("WhisperForConditionalGeneration", sound), (16, 64), _heard
        ),
        _entry("Wav2Vec2ForCTC", lambda: _made("Wav2Vec2ForCTC", wave), (4000,)),
    ]


def _words(batch, side, generator):
    return torch.randint(2, 100, (batch, *side), generator=generator)


def _two_texts(batch, side, generator):
    ids = _words(batch, side, generator)
    return {"input_ids": ids, "decoder_input_ids": ids[:, :8].clone()}


def _heard(batch, side, generator):
    features = torch.randn((batch, 16, *side), generator=generator)
    return {"input_features": features, "decoder_input_ids": _words(batch, (8,), generator)}


def _torchvision():
    models = importlib.import_module("torchvision").models
    swin = models.swin_transformer.SwinTransformer
    vit = models.vision_transformer.VisionTransformer
    narrow = {"image_size": 64, "patch_size": 8, "num_layers": 3, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 128}
    windows = {"patch_size": [4, 4], "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4]}
    return [
        _entry("torchvision.VisionTransformer", lambda: vit(**narrow), (3, 64, 64)),
        _entry("torchvision.SwinTransformer", lambda: swin(**windows), (3, 64, 64)),
    ]


# --- torch's own layers -----------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """`nn.TransformerEncoder` between an embedding and a linear layer."""

    def __init__(self, norm_first):
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(64, 5)

    def forward(self, ids):
        """Class scores of a text."""
        return self.head(self.encoder(self.embed(ids)).mean(1))


class Translator(nn.Module):
    """`nn.Transformer` with a causal mask."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.transformer = nn.Transformer(64, 4, 2, 2, 128, batch_first=True)
        self.head = nn.Linear(64, 100)

    def forward(self, given, made):
        """Scores of each next word."""
        mask = nn.Transformer.generate_square_subsequent_mask(made.shape[1])
        return self.head(self.transformer(self.embed(given), self.embed(made), tgt_mask=mask))


class Tagger(nn.Module):
    """A tag a word, by a recurrent layer."""

    def __init__(self, kind):
        super().__init__()
        self.embed = nn.Embedding(100, 32)
        self.recurrent = kind(32, 48, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(96, 7)

    def forward(self, ids):
        """Scores of the tags."""
        return self.head(self.recurrent(self.embed(ids))[0])


def _torch():
    return [
        _entry("nn.TransformerEncoder", lambda: Encoder(False), (1, 16), _words),
        _entry("nn.TransformerEncoder(norm_first)", lambda: Encoder(True), (1, 16), _words),
        _entry("nn.Transformer", Translator, (1, 16), lambda b, s, g: (_words(b, s, g), _words(b, (8,), g))),
        _entry("LSTM tagger", lambda: Tagger(nn.LSTM), (1, 16), _words),
        _entry("GRU tagger", lambda: Tagger(nn.GRU), (1, 16), _words),
    ]
