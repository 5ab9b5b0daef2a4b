"""Networks as people have them, for the coverage sweep: the fourth list, `wild`. Random weights; nothing is downloaded.

    pip install ultralytics==8.4.190 transformers==5.24.0 diffusers==0.42.1 segmentation-models-pytorch==0.6.0
    pip install dynamic-network-architectures==0.4.4 timm==1.0.31 torchvision==0.28.0

Each is taken as its library makes it, without a wrapper: it returns dataclasses, dicts, lists and tuples, takes several
inputs, and computes something else in training. Large ones are made narrow and shallow, by their own settings.
"""

from __future__ import annotations

import importlib
import os

import torch
import wild_scripts
from zoo import Entry, import_torchvision, smaller


def entries() -> list[Entry]:
    """All of them, by library; fails where one of the libraries is not installed."""
    import_torchvision()
    return [
        *_ultralytics(),
        *_transformers(),
        *_segmentation(),
        *_timm(),
        *_nnunet(),
        *_diffusers(),
        *_torchvision(),
        *_scripts(),
    ]


def _entry(name, make, shape, sides=(), inputs=None):
    return Entry("wild", name, make, shape, sides, inputs)


# --- Ultralytics ------------------------------------------------------------------------------------------------------

YOLO = (
    "yolov3-tiny yolov5n yolov6n yolov8n yolov8n-seg yolov8n-pose yolov8n-cls yolov8n-obb yolov8n-p2 yolov9t yolov9s "
    "yolov10n yolo11n yolo11n-seg yolo11n-pose yolo11n-cls yolo11n-obb yolo12n yolo12n-cls yolo26n yolo26n-seg "
    "yolo26n-pose yolo26n-cls rtdetr-l"
)


def _ultralytics():
    os.environ.setdefault("YOLO_OFFLINE", "1")
    library = importlib.import_module("ultralytics")
    return [_entry(name, lambda name=name: _yolo(library, name), (3, 160, 160)) for name in YOLO.split()]


def _yolo(library, name):
    kind = library.RTDETR if name.startswith("rtdetr") else library.YOLO
    return kind(f"{name}.yaml").model


# --- transformers -----------------------------------------------------------------------------------------------------

FOUR = {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 2, 2, 1]}
PLAIN = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
SMALL = {**PLAIN, "image_size": 64, "patch_size": 8}
STAGES = {"embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 64, "patch_size": 4}

PICTURES = {  # class: (settings, side)
    "ResNetForImageClassification": ({**FOUR, "embedding_size": 32}, 64),
    "RegNetForImageClassification": ({**FOUR, "embedding_size": 32, "groups_width": 16}, 64),
    "ConvNextForImageClassification": (FOUR, 64),
    "ConvNextV2ForImageClassification": (FOUR, 64),
    "MobileNetV1ForImageClassification": ({}, 64),
    "MobileNetV2ForImageClassification": ({}, 64),
    "MobileNetV2ForSemanticSegmentation": ({}, 96),
    "EfficientNetForImageClassification": (
        {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280},
        64,
    ),
    "BitForImageClassification": ({**FOUR, "embedding_size": 32, "num_groups": 8}, 64),
    "HGNetV2ForImageClassification": ({}, 64),
    "TextNetForImageClassification": ({}, 64),
    "PoolFormerForImageClassification": (FOUR, 64),
    "SegformerForImageClassification": ({"hidden_sizes": [16, 32, 64, 128], "decoder_hidden_size": 64}, 64),
    "SegformerForSemanticSegmentation": ({"hidden_sizes": [16, 32, 64, 128], "decoder_hidden_size": 64}, 64),
    "UperNetForSemanticSegmentation": ("upernet", 64),
    "MobileViTForImageClassification": ({"image_size": 64}, 64),
    "MobileViTV2ForImageClassification": ({"image_size": 64}, 64),
    "LevitForImageClassification": ({"hidden_sizes": [64, 96, 128], "depths": [1, 1, 1], "image_size": 64}, 64),
    "CvtForImageClassification": (
        {"embed_dim": [32, 64, 96], "num_heads": [1, 2, 3], "depth": [1, 2, 3], "cls_token": [False, False, True]},
        64,
    ),
    "PvtForImageClassification": ({"hidden_sizes": [16, 32, 80, 128], "image_size": 64}, 64),
    "PvtV2ForImageClassification": ({"hidden_sizes": [16, 32, 80, 128], "image_size": 64}, 64),
    "FocalNetForImageClassification": ({"embed_dim": 32, "depths": [1, 1, 2, 1], "image_size": 64}, 64),
    "SwiftFormerForImageClassification": ({"image_size": 64}, 64),
    "ViTForImageClassification": (SMALL, 64),
    "DeiTForImageClassification": (SMALL, 64),
    "BeitForImageClassification": (SMALL, 64),
    "Dinov2ForImageClassification": ({**SMALL, "mlp_ratio": 2}, 64),
    "Dinov2WithRegistersForImageClassification": ({**SMALL, "mlp_ratio": 2}, 64),
    "ViTMSNForImageClassification": (SMALL, 64),
    "ViTMAEModel": (SMALL, 64),
    "SiglipVisionModel": (SMALL, 64),
    "CLIPVisionModelWithProjection": (SMALL, 64),
    "SwinForImageClassification": (STAGES, 64),
    "Swinv2ForImageClassification": (STAGES, 64),
    "DonutSwinModel": (STAGES, 64),
    "Swin2SRForImageSuperResolution": (
        {"image_size": 32, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4},
        32,
    ),
    "GLPNForDepthEstimation": ({"hidden_sizes": [16, 32, 80, 128], "decoder_hidden_size": 32}, 64),
    "SuperPointForKeypointDetection": ({}, 64),
    "YolosForObjectDetection": ({**PLAIN, "image_size": [64, 64], "patch_size": 8, "num_detection_tokens": 10}, 64),
    "DetrForObjectDetection": ("detr", 64),
}
SOUNDS = {
    "Wav2Vec2ForCTC": {"conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
    "HubertForCTC": {"conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
    "EncodecModel": {"num_filters": 8, "codebook_size": 16, "hidden_size": 32},
    "DacModel": {"encoder_hidden_size": 16, "decoder_hidden_size": 96, "codebook_size": 16},
}
TEXTS = ("BertForSequenceClassification", "DistilBertForSequenceClassification", "RobertaForSequenceClassification")


def _transformers():
    library = importlib.import_module("transformers")
    found = []
    for name, (settings, side) in PICTURES.items():
        found.append(_entry(name, lambda n=name, s=settings: _from_config(library, n, s), (3, side, side)))
    for name, settings in SOUNDS.items():
        more = PLAIN if "Wav2" in name or "Hubert" in name else {}
        shape = (4000,) if more else (1, 4000)
        found.append(_entry(name, lambda n=name, s=settings | more: _from_config(library, n, s), shape))
    for name in TEXTS:
        settings = {"vocab_size": 100, "max_position_embeddings": 40}
        settings |= {"dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 128} if name.startswith("Dis") else PLAIN
        found.append(_entry(name, lambda n=name, s=settings: _from_config(library, n, s), (1, 16), inputs=_words))
    return found


def _from_config(library, name, settings):
    if settings in ("detr", "upernet"):
        return _with_backbone(library, name)
    kind = getattr(library, name)
    return kind(kind.config_class(**settings))


def _with_backbone(library, name):
    backbone = library.ResNetConfig(
        **FOUR, embedding_size=32, layer_type="basic", out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    if name.startswith("UperNet"):
        config = library.UperNetConfig(
            backbone_config=backbone, hidden_size=32, auxiliary_in_channels=96, auxiliary_channels=32, num_labels=5
        )
    else:
        backbone.set_output_features_output_indices(out_features=["stage4"], out_indices=None)
        config = library.DetrConfig(
            use_timm_backbone=False,
            backbone_config=backbone,
            d_model=64,
            encoder_layers=2,
            decoder_layers=2,
            encoder_ffn_dim=128,
            decoder_ffn_dim=128,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            num_queries=10,
        )
    return getattr(library, name)(config)


def _words(batch, side, generator):
    return torch.randint(2, 100, (batch, *side), generator=generator)


# --- segmentation-models-pytorch --------------------------------------------------------------------------------------

SEGMENTATION = (
    "Unet resnet18, Unet efficientnet-b0, Unet mobilenet_v2, Unet timm-mobilenetv3_small_100, UnetPlusPlus resnet18, "
    "MAnet resnet18, Linknet resnet18, FPN resnet18, PSPNet resnet18, PAN resnet18, DeepLabV3 resnet18, "
    "DeepLabV3Plus mobilenet_v2, UPerNet resnet18, Segformer resnet18, FPN densenet121, Unet mit_b0"
)


def _segmentation():
    library = importlib.import_module("segmentation_models_pytorch")
    found = []
    for text in SEGMENTATION.split(", "):
        kind, encoder = text.split()
        make = getattr(library, kind)
        found.append(
            _entry(
                f"smp.{kind}({encoder})",
                lambda make=make, encoder=encoder: make(encoder_name=encoder, encoder_weights=None, classes=3),
                (3, 128, 128),
                smaller(128),
            )
        )
    aux = {"classes": 4, "dropout": 0.2}
    return [
        *found,
        _entry(
            "smp.Unet(aux_params)",
            lambda: library.Unet("resnet18", encoder_weights=None, aux_params=aux),
            (3, 128, 128),
            smaller(128),
        ),
    ]


# --- timm's transformers and feature extractors -----------------------------------------------------------------------

VITS = (
    "vit_tiny_patch16_224 vit_relpos_small_patch16_224 deit_tiny_distilled_patch16_224 deit3_small_patch16_224 "
    "cait_xxs24_224 convit_tiny crossvit_tiny_240 eva02_tiny_patch14_224 hiera_tiny_224 mixer_s32_224 mvitv2_tiny "
    "pit_ti_224 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 tnt_s_patch16_224 twins_svt_small volo_d1_224 "
    "xcit_nano_12_p16_224"
)


def _timm():
    library = importlib.import_module("timm")
    found = []
    for name in VITS.split():
        side = library.models.get_pretrained_cfg(name).input_size[-1]
        found.append(_entry(f"timm.{name}", lambda name=name: library.create_model(name), (3, side, side)))
    for name in ("resnet18", "mobilenetv3_small_100", "convnext_atto"):
        found.append(
            _entry(
                f"timm.{name}(features_only)",
                lambda name=name: library.create_model(name, features_only=True),
                (3, 224, 224),
                smaller(224),
            )
        )
    return found


# --- nnU-Net ----------------------------------------------------------------------------------------------------------


def _nnunet():
    unet = importlib.import_module("dynamic_network_architectures.architectures.unet")
    residual = (
        importlib.import_module("dynamic_network_architectures.architectures.residual_unet")
        if not hasattr(unet, "ResidualEncoderUNet")
        else unet
    )
    found = []
    for axes in (2, 3):
        convolution = getattr(torch.nn, f"Conv{axes}d")
        settings = {
            "input_channels": 1,
            "n_stages": 4,
            "features_per_stage": (16, 32, 64, 64),
            "conv_op": convolution,
            "kernel_sizes": 3,
            "strides": (1, 2, 2, 2),
            "num_classes": 3,
            "n_conv_per_stage_decoder": (1, 1, 1),
            "conv_bias": True,
            "norm_op": getattr(torch.nn, f"InstanceNorm{axes}d"),
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": torch.nn.LeakyReLU,
            "nonlin_kwargs": {"inplace": True},
        }
        for deep in (False, True):
            plain = settings | {"n_conv_per_stage": (2, 2, 2, 2), "deep_supervision": deep}
            blocks = settings | {"n_blocks_per_stage": (1, 2, 2, 2), "deep_supervision": deep}
            name = f"{axes}D, deep_supervision={deep}"
            side = (1, *(32,) * axes)
            found.append(_entry(f"PlainConvUNet({name})", lambda s=plain: unet.PlainConvUNet(**s), side))
            found.append(
                _entry(f"ResidualEncoderUNet({name})", lambda s=blocks: residual.ResidualEncoderUNet(**s), side)
            )
    return found


# --- diffusers --------------------------------------------------------------------------------------------------------


def _diffusers():
    library = importlib.import_module("diffusers")
    narrow = {"block_out_channels": (32, 64), "norm_num_groups": 8}
    image = (3, 32, 32)

    def unet(**more):
        down, up = ("DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")
        settings = {"sample_size": 32, "layers_per_block": 1, "down_block_types": down, "up_block_types": up}
        return library.UNet2DModel(**settings, **narrow, **more)

    def conditioned():
        return library.UNet2DConditionModel(
            sample_size=32,
            layers_per_block=1,
            in_channels=3,
            out_channels=3,
            cross_attention_dim=32,
            attention_head_dim=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            **narrow,
        )

    coder = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return [
        _entry("diffusers.UNet2DModel", unet, image, inputs=_noisy),
        _entry(
            "diffusers.UNet2DModel(scale_shift)",
            lambda: unet(resnet_time_scale_shift="scale_shift"),
            image,
            inputs=_noisy,
        ),
        _entry("diffusers.UNet2DConditionModel", conditioned, image, inputs=_conditioned),
        _entry("diffusers.AutoencoderKL", lambda: library.AutoencoderKL(**coder, **narrow), image),
        _entry(
            "diffusers.AutoencoderTiny",
            lambda: library.AutoencoderTiny(
                encoder_block_out_channels=(32, 32),
                decoder_block_out_channels=(32, 32),
                num_encoder_blocks=(1, 2),
                num_decoder_blocks=(2, 1),
            ),
            image,
        ),
        _entry("diffusers.VQModel", lambda: library.VQModel(**coder, **narrow, num_vq_embeddings=16), image),
    ]


def _noisy(batch, side, generator):
    return torch.rand((batch, 3, *side), generator=generator) * 2 - 1, torch.full((batch,), 7)


def _conditioned(batch, side, generator):
    return *_noisy(batch, side, generator), torch.randn((batch, 5, 32), generator=generator)


# --- torchvision: what the first list leaves out ----------------------------------------------------------------------


def _torchvision():
    models = importlib.import_module("torchvision").models
    found = [
        _entry(
            f"torchvision.{name}(aux_loss)",
            lambda name=name: models.get_model(name, weights=None, weights_backbone=None, aux_loss=True),
            (3, 96, 96),
        )
        for name in ("fcn_resnet50", "deeplabv3_mobilenet_v3_large")
    ]
    for name, side in (("googlenet", 96), ("inception_v3", 299)):
        found.append(
            _entry(
                f"torchvision.{name}(aux_logits)",
                lambda name=name: models.get_model(name, weights=None, aux_logits=True, init_weights=False),
                (3, side, side),
            )
        )
    for name in ("vit_b_16", "swin_t", "swin_v2_t"):
        found.append(
            _entry(f"torchvision.{name}", lambda name=name: models.get_model(name, weights=None), (3, 224, 224))
        )
    found.append(
        _entry(
            "torchvision.raft_small", lambda: models.get_model("raft_small", weights=None), (3, 128, 128), inputs=_pair
        )
    )
    for name in ("ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn"):
        found.append(
            _entry(
                f"torchvision.{name}, its backbone",
                lambda name=name: models.get_model(name, weights=None, weights_backbone=None).backbone,
                (3, 128, 128),
            )
        )
    return found


def _pair(batch, side, generator):
    return tuple(torch.rand((batch, 3, *side), generator=generator) * 2 - 1 for _ in range(2))


def _scripts():
    return [_entry(name, make, shape, inputs=inputs) for name, (make, shape, inputs) in wild_scripts.SCRIPTS.items()]
