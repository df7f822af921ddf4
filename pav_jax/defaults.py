"""Every field a configuration has, with its type and its default: the method's constants on the
embedded models.

A file in configs/ starts from `get_config()` here and sets what its experiment changes. `mini:...`
names files that come with the package. A field whose default is None takes the value of the
checkpoint it belongs to.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from pav_jax.evolve.config import evolve_config, proposers_config, select_config
from pav_jax.prefer.config import prefer_config
from pav_jax.train.config import dpo_config, grpo_config, sft_config
from pav_jax.trust.config import calibrate_config, trust_config


def get_config() -> ConfigDict:
    """A new configuration: fields may be changed, not added. Constants are those of arXiv
    2412.15156 and its code unless a comment says otherwise."""
    config = ConfigDict(
        dict(
            seed=0,
            rounds=2,  # of prefer and dpo; two converge
            # sizes of the axes of the rewriter's mesh (parallel/mesh.py); one may be -1: all
            # devices the others leave
            mesh=dict(data=1, fsdp=1, tensor=1, sequence=1),
            generator=_generator(),
            rewards=_rewards(),
            rewriter=_rewriter(),
            proposers=proposers_config(),
            evolve=evolve_config(),
            select=select_config(),
            sft=sft_config(),
            prefer=prefer_config(),
            dpo=dpo_config(),
            grpo=grpo_config(),
            evaluate=_evaluate(),
            trust=trust_config(),
            calibrate=calibrate_config(),
            report=_report(),
            check=_check(),
        )
    )
    return config.lock()


def _generator() -> ConfigDict:
    return ConfigDict(
        dict(
            # a diffusers folder or a hub id of a family that runs here in JAX;
            # diffusers:FOLDER-OR-ID for any pipeline of diffusers (extra `torch`); http(s)://...
            # for any endpoint that keeps to the contract in video/endpoint.py
            path="mini:generator",
            dtype="float32",
            batch_size=16,  # videos in one compiled program; the last batch is filled up
            num_frames=placeholder(int),
            height=placeholder(int),
            width=placeholder(int),
            num_inference_steps=placeholder(int),
            guidance_scale=placeholder(float),
            use_dynamic_cfg=placeholder(bool),
            max_sequence_length=placeholder(int),  # text tokens that the text encoder reads
            # how steps are made fewer or cheaper; all off unless set, and what each costs is in
            # README
            scheduler=placeholder(
                str
            ),  # replaces the folder's: the name of a class of its family, as diffusers has it
            # shares of the steps, as of diffusers' guiders: outside there is no guidance and half
            # the work
            guidance_start=placeholder(float),
            guidance_stop=placeholder(float),
            # steps that add the residual of an earlier one instead of running the layers (MagCache,
            # arXiv 2506.09045): the estimated error that may add up, how many may follow each
            # other, the share of first steps always computed
            cache_threshold=placeholder(float),
            cache_max_skips=placeholder(int),
            cache_retention=placeholder(float),
            vae_tiling=placeholder(bool),  # the VAE decodes overlapping tiles: less memory
            # sizes of the axes of one host's mesh: rows over data, weights over fsdp, heads over
            # tensor, tokens over sequence; all 1: rows over as many devices as share them evenly
            mesh=dict(data=1, fsdp=1, tensor=1, sequence=1),
            sequence_attention="auto",  # ring, ulysses, or auto: ulysses where the heads allow it
            cfg_parallel=placeholder(
                bool
            ),  # guidance's two branches on two halves of data, instead of one doubled batch
            # the host's last so many devices have text encoder and VAE, which work beside the
            # denoiser
            encoder_vae_devices=0,
            # of the two back ends: further arguments of a pipeline's call, further fields of a
            # request
            options=dict(),
            endpoint=dict(
                # stands for the endpoint in the keys of records, so that it may move; empty: its
                # address
                name="",
                # the environment variable that holds the key, if there is one
                api_key_env="PAV_GENERATOR_API_KEY",
                concurrency=4,  # requests in flight at once
                timeout_s=600.0,  # seconds for one complete reply
                max_retries=4,  # further attempts for one video after the first one failed
                max_backoff_s=60.0,  # longest pause between two attempts
                max_consecutive_failures=8,  # failed videos in a row after which it counts as down
            ),
        )
    )


def _rewards() -> ConfigDict:
    # FAITH is scored with the others, but is a floor: it never enters the sum
    return ConfigDict(
        dict(
            entries=dict(  # kind -> arguments of its class's from_pretrained, `path` its folder
                aesthetic=dict(path="mini:clip", frames=4, layout="sheet"),
                clip_alignment=dict(path="mini:clip", frames=4, layout="sheet"),
                motion=dict(),
                faithfulness=dict(),
            ),
            weights=dict(AES=1.0, TVA=1.0, TC=1.0, DD=1.0),
            thresholds=dict(),  # a rewrite may only be selected or chosen above these
            constraints=dict(FAITH=0.7),
            # scores left out of all entries: for images, videos of one frame, ("TC", "DD", "FC")
            skip=(),
            # entries as above, as a tuple of dict(name=kind, ...): judges whose scores are recorded
            # under held_out:NAME and watched for signs of reward hacking; no weight, threshold,
            # floor or proposer ever sees them
            held_out=(),
        )
    )


def _rewriter() -> ConfigDict:
    return ConfigDict(
        dict(
            path="mini:rewriter",  # a Hugging Face folder, a hub id or a .gguf file
            dtype="float32",
            attention="auto",  # plain, splash (TPU), cudnn (GPU) or auto: by platform
            template="",  # a chat template file; empty: the checkpoint's own
            # answers written in one compiled program; raised to a multiple of the mesh's data *
            # fsdp
            batch_size=16,
            # how the untuned rewriter is sampled where it is measured, and its boosters, whose
            # folders say the same
            temperature=1.0,
            top_k=50,
            top_p=1.0,
            max_new_tokens=250,
        )
    )


def _evaluate() -> ConfigDict:
    return ConfigDict(
        dict(
            # set name -> file: .txt with one prompt a line, or .jsonl with `prompt` and optionally
            # `oracle`
            prompts=dict(
                in_domain="mini:prompts/in_domain.jsonl", held_out="mini:prompts/held_out.jsonl"
            ),
            max_prompts=placeholder(int),  # the first so many of each set; None for all
            systems=("original", "base", "sft", "dpo_1", "dpo_2"),
            rewrite_files=dict(),  # further systems: name -> .jsonl of `prompt` and `refined`
            controls=True,
            seeds=(0, 1),  # the generator's; every system is measured with the same ones
            num_suffix_prompts=24,  # training prompts on which the best fixed suffix is found
            num_resamples=10_000,
            save_videos=True,
        )
    )


def _report() -> ConfigDict:
    return ConfigDict(
        dict(
            title="Prompt booster report",
            num_examples=8,  # shown per prompt set, evenly spaced in the file
            num_worst=4,  # largest losses shown per prompt set
        )
    )


def _check() -> ConfigDict:
    """What `pav check` compiles and assumes."""
    return ConfigDict(
        dict(
            topology=placeholder(str),  # TPU generation and chips, such as v5e:4x4
            num_slices=1,  # slices, over which the data axis goes
            programs=("sft", "dpo", "sample", "generator", "rewards"),
            num_examples=5000,  # SFT pairs, preferences and prompts
            row_length=placeholder(int),  # tokens of a training row; None: the longest
            prompt_length=128,  # tokens of a prompt in the chat template
        )
    )
