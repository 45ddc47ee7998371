"""Models of KerasHub, which are Functional models of classes of their own."""

import model_checks
import numpy as np
import pytest
import tiny
from tensorflow import keras

import rigl_keras

if not tiny.IS_KERAS_3:
    pytest.skip("KerasHub is for Keras 3", allow_module_level=True)
keras_hub = pytest.importorskip("keras_hub")

MODELS = keras_hub.models
LENGTH = 6
SIZES = {
    "vocabulary_size": 30,
    "num_layers": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
}
WITH_POSITIONS = {**SIZES, "num_heads": 2, "max_sequence_length": 8, "dropout": 0.0}
WITH_GROUPS = {**SIZES, "num_query_heads": 2, "num_key_value_heads": 1}
ATTENTION = ["query", "key", "value", "attention_output"]


def bert():
    return MODELS.BertBackbone(**WITH_POSITIONS)


def gpt2():
    return MODELS.GPT2Backbone(**WITH_POSITIONS)


def vit():
    return MODELS.ViTBackbone(
        image_shape=(16, 16, 3),
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=16,
        dropout_rate=0.0,
    )


def in_blocks(block, *kernels):
    return {
        f"{block.format(index)}/{kernel}/kernel"
        for index in range(SIZES["num_layers"])
        for kernel in kernels
    }


FEEDFORWARD = ["feedforward_intermediate_dense", "feedforward_output_dense"]
OF_BERT = in_blocks(
    "transformer_layer_{}",
    *(f"self_attention_layer/{each}" for each in ATTENTION),
    *FEEDFORWARD,
) | {"pooled_dense/kernel"}
OF_GPT2 = in_blocks(
    "transformer_layer_{}",
    *(f"self_attention/{each}" for each in ATTENTION),
    *FEEDFORWARD,
)
BACKBONES = {
    "BERT": (bert, OF_BERT),
    "DistilBERT": (
        lambda: MODELS.DistilBertBackbone(**WITH_POSITIONS),
        OF_BERT - {"pooled_dense/kernel"},
    ),
    "GPT-2": (gpt2, OF_GPT2),
    "Llama 3": (
        lambda: MODELS.Llama3Backbone(**WITH_GROUPS),
        OF_GPT2 | in_blocks("transformer_layer_{}", "feedforward_gate_dense"),
    ),
    "Gemma": (
        lambda: MODELS.GemmaBackbone(**WITH_GROUPS, head_dim=4),
        in_blocks(
            "decoder_block_{}",
            *(f"attention/{each}" for each in ATTENTION),
            *("ffw_gating", "ffw_gating_2", "ffw_linear"),
        ),
    ),
}


def tokens_for(model):
    """Sequences of tokens, some of them shorter, in the structure of the inputs."""
    generator = np.random.RandomState(0)
    shape = (model_checks.STEPS * model_checks.BATCH, LENGTH)
    padding = np.ones(shape, np.int32)
    padding[::3, LENGTH - 2 :] = 0
    x = {
        "token_ids": generator.randint(1, 30, shape).astype(np.int32) * padding,
        "segment_ids": np.zeros(shape, np.int32),
        "padding_mask": padding,
    }
    return {name: x[name] for name in model.input}


# One in the default tier.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.slow if name == "GPT-2" else pytest.mark.release
        )
        for name in BACKBONES
    ],
)
def test_a_backbone_is_trained_sparsely(tmp_path, name):
    make, paths = BACKBONES[name]
    model = make()
    plain = model_checks.check_model(model, tmp_path, paths, x=tokens_for(model))
    assert type(plain) is type(model)
    assert plain.get_config() == model.get_config()
    assert plain.token_embedding is not None


@pytest.mark.release
def test_a_vision_transformer_is_trained_sparsely(tmp_path):
    block = "vit_encoder/transformer_block_{}"
    kernels = [*(f"mha/{each}" for each in ATTENTION), "mlp/dense_1", "mlp/dense_2"]
    paths = {f"{block.format(i)}/{each}/kernel" for i in (1, 2) for each in kernels}
    paths.add("vit_patching_and_embedding/patch_embedding/kernel")
    plain = model_checks.check_model(vit(), tmp_path, paths)
    assert isinstance(plain, MODELS.ViTBackbone)


@pytest.mark.release
def test_a_classifier_is_trained_sparsely(tmp_path):
    backbone = bert()
    model = MODELS.BertTextClassifier(backbone, 3, preprocessor=None, dropout=0.0)
    paths = {f"{backbone.name}/{path}" for path in OF_BERT} | {"logits/kernel"}
    plain = model_checks.check_model(model, tmp_path, paths, x=tokens_for(model))
    assert isinstance(plain, MODELS.BertTextClassifier)
    assert isinstance(plain.backbone, MODELS.BertBackbone)


SIDE = 8
OF_RESNET = {
    f"{layer}_conv/kernel"
    for layer in (
        *("conv1", "stack0_block0_1", "stack0_block0_2"),
        *("stack1_block0_0", "stack1_block0_1", "stack1_block0_2"),
    )
}


def resnet(use_pre_activation=False):
    return MODELS.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 8],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        use_pre_activation=use_pre_activation,
        image_shape=(SIDE, SIDE, 3),
    )


@pytest.mark.release
@pytest.mark.parametrize("use_pre_activation", [False, True])
def test_a_resnet_is_trained_sparsely(tmp_path, use_pre_activation):
    plain = model_checks.check_model(resnet(use_pre_activation), tmp_path, OF_RESNET)
    assert isinstance(plain, MODELS.ResNetBackbone)


def test_an_image_classifier_is_trained_sparsely(tmp_path):
    backbone = resnet()
    model = MODELS.ResNetImageClassifier(backbone, 3)
    paths = {f"{backbone.name}/{path}" for path in OF_RESNET} | {"predictions/kernel"}
    plain = model_checks.check_model(model, tmp_path, paths)
    assert isinstance(plain, MODELS.ResNetImageClassifier)


def test_a_preprocessor_is_refused_until_it_is_taken_off():
    """A task applies it in its own `fit` and `predict`."""
    images = np.random.RandomState(0).randint(0, 256, (4, SIDE, SIDE, 3))
    preprocessor = MODELS.ResNetImageClassifierPreprocessor(
        keras_hub.layers.ResNetImageConverter((SIDE, SIDE), scale=1 / 255)
    )
    task = MODELS.ResNetImageClassifier(resnet(), 3, preprocessor=preprocessor)
    with pytest.raises(ValueError, match="`preprocessor` to None"):
        tiny.sparsify(task)
    with pytest.raises(ValueError, match="`preprocessor` to None"):
        rigl_keras.SparseModel(rigl_keras.Sparse(task, 0.5))
    task.preprocessor = None
    sparse = tiny.sparsify(task)
    expected = sparse.predict(preprocessor(images), verbose=0)
    plain = rigl_keras.strip(sparse)
    plain.preprocessor = preprocessor
    np.testing.assert_allclose(plain.predict(images, verbose=0), expected, atol=1e-5)


@pytest.mark.release
def test_a_backbone_in_a_model_of_the_users_is_trained_sparsely(tmp_path):
    backbone = bert()
    inputs = {
        name: keras.Input((LENGTH,), dtype="int32", name=name)
        for name in backbone.input
    }
    x = backbone(inputs)["pooled_output"]
    model = keras.Model(inputs, keras.layers.Dense(3, name="out")(x))
    paths = {f"{backbone.name}/{path}" for path in OF_BERT} | {"out/kernel"}
    plain = model_checks.check_model(model, tmp_path, paths, x=tokens_for(model))
    assert isinstance(plain.get_layer(backbone.name), MODELS.BertBackbone)


@pytest.mark.release
def test_a_stripped_language_model_generates_what_its_masked_weights_say():
    model = MODELS.GPT2CausalLM(gpt2(), preprocessor=None)
    model_checks.shake(model)
    sparse = tiny.sparsify(model)
    masks = rigl_keras.get_masks(sparse)
    plain = rigl_keras.strip(sparse)
    prompt = {
        "token_ids": np.array([[4, 9, 2, 0, 0, 0]] * 2, np.int32),
        "padding_mask": np.array([[1, 1, 1, 0, 0, 0]] * 2, np.int32),
    }
    dense_text = generated(model, prompt)
    model_checks.mask_plain(model, masks)
    text = generated(model, prompt)
    assert (text != dense_text).any()
    np.testing.assert_array_equal(generated(plain, prompt), text)


def generated(model, prompt):
    model.compile(sampler="greedy")
    return np.asarray(model.generate(prompt, stop_token_ids=None)["token_ids"])
