#!/usr/bin/env bash
# GRPO with LoRA on GSM8K, with reward dithering, on one GPU.
#
#   bash recipes/redit_gsm8k/run_qwen2_5_fsdp.sh                       # Qwen2.5-0.5B-Instruct
#   MODEL_PATH=Qwen/Qwen2.5-1.5B-Instruct bash recipes/redit_gsm8k/run_qwen2_5_fsdp.sh
#   REDIT=none bash recipes/redit_gsm8k/run_qwen2_5_fsdp.sh            # the same run without dithering
#   bash recipes/redit_gsm8k/run_qwen2_5_fsdp.sh redit.std=0.0577      # any verl override at the end

set -xeuo pipefail

############################# user settings #############################
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-0.5B-Instruct}
DATA_DIR=${DATA_DIR:-$HOME/data/gsm8k}
OUTPUT_DIR=${OUTPUT_DIR:-checkpoints/redit_gsm8k}
# gaussian, uniform, or none
REDIT=${REDIT:-gaussian}
NUM_GPUS=${NUM_GPUS:-1}
# prompts in a step
TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-256}
# several updates a batch; for a comparison set both sizes alike (see dithering.md)
MINI_BATCH_SIZE=${MINI_BATCH_SIZE:-64}
MICRO_BATCH_SIZE=${MICRO_BATCH_SIZE:-16}
# num_generations in the authors' scripts
ROLLOUTS=${ROLLOUTS:-8}
# 5e-6 in the authors' scripts trains r=8 on two projections; verl's LoRA examples use 3e-6 at r=64
LEARNING_RATE=${LEARNING_RATE:-3e-6}
LORA_RANK=${LORA_RANK:-32}
LORA_ALPHA=${LORA_ALPHA:-32}
MAX_PROMPT_LENGTH=${MAX_PROMPT_LENGTH:-512}
MAX_RESPONSE_LENGTH=${MAX_RESPONSE_LENGTH:-1024}
EPOCHS=${EPOCHS:-15}
SEED=${SEED:-0}
#########################################################################

DATA=(
    data.train_files="$DATA_DIR/train.parquet"
    data.val_files="$DATA_DIR/test.parquet"
    data.train_batch_size="$TRAIN_BATCH_SIZE"
    data.max_prompt_length="$MAX_PROMPT_LENGTH"
    data.max_response_length="$MAX_RESPONSE_LENGTH"
    data.filter_overlong_prompts=True
    data.truncation=error
    data.seed="$SEED"
)

MODEL=(
    actor_rollout_ref.model.path="$MODEL_PATH"
    actor_rollout_ref.model.lora_rank="$LORA_RANK"
    actor_rollout_ref.model.lora_alpha="$LORA_ALPHA"
    actor_rollout_ref.model.target_modules=all-linear
)

ACTOR=(
    actor_rollout_ref.actor.optim.lr="$LEARNING_RATE"
    actor_rollout_ref.actor.ppo_mini_batch_size="$MINI_BATCH_SIZE"
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu="$MICRO_BATCH_SIZE"
    actor_rollout_ref.actor.use_kl_loss=True
    actor_rollout_ref.actor.kl_loss_coef=0.001
    actor_rollout_ref.actor.kl_loss_type=low_var_kl
    actor_rollout_ref.actor.entropy_coeff=0
)

ROLLOUT=(
    actor_rollout_ref.rollout.name=vllm
    actor_rollout_ref.rollout.n="$ROLLOUTS"
    actor_rollout_ref.rollout.tensor_model_parallel_size=1
    actor_rollout_ref.rollout.gpu_memory_utilization=0.5
    actor_rollout_ref.rollout.load_format=safetensors
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu="$MICRO_BATCH_SIZE"
    actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu="$MICRO_BATCH_SIZE"
)

REWARD=()
if [ "$REDIT" != none ]; then
    REWARD+=(+redit="$REDIT" redit.seed="$SEED")
fi

TRAINER=(
    algorithm.adv_estimator=grpo
    algorithm.use_kl_in_reward=False
    trainer.n_gpus_per_node="$NUM_GPUS"
    trainer.nnodes=1
    trainer.critic_warmup=0
    trainer.total_epochs="$EPOCHS"
    trainer.save_freq=20
    trainer.test_freq=5
    trainer.logger='["console","file"]'
    trainer.project_name=redit_gsm8k
    trainer.experiment_name="redit_$REDIT"
    trainer.default_local_dir="$OUTPUT_DIR/$REDIT"
)

python3 -m verl.trainer.main_ppo \
    "${DATA[@]}" \
    "${MODEL[@]}" \
    "${ACTOR[@]}" \
    "${ROLLOUT[@]}" \
    "${REWARD[@]}" \
    "${TRAINER[@]}" \
    "$@"
