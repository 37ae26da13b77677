#!/usr/bin/env bash
# Second stage: GRPO with LoRA on GSM8K with the same pool, the same layers, and dithering in the closed loop.
# Hyper-parameters: config/suite_gsm8k.yaml.
#
#   bash recipes/suite_gsm8k/run_1_supervised_qwen2_5_fsdp.sh
#   bash recipes/suite_gsm8k/run_2_grpo_qwen2_5_fsdp.sh

set -xeuo pipefail

############################# user settings #############################
DATA_DIR=${DATA_DIR:-$HOME/data/gsm8k}
OUTPUT_DIR=${OUTPUT_DIR:-checkpoints/suite_gsm8k}
# by default what the first stage wrote with the same seed
MODEL_PATH=${MODEL_PATH:-}
SELECTION=${SELECTION:-}
# gaussian, uniform, or none, which is what recipes/lab recommends
REDIT=${REDIT:-gaussian}
# cycle, uniform, block, stratified, adaptive, static or fixed
POLICY=${POLICY:-cycle}
# a bundled pool or a file of your own, the same in both stages
POOL=${POOL:-gsm8k}
NUM_GPUS=${NUM_GPUS:-1}
SEED=${SEED:-0}
#########################################################################

# whole paths, as workers of a Ray cluster start elsewhere
OUTPUT_DIR=$(realpath -m "$OUTPUT_DIR")
FIRST=$OUTPUT_DIR/supervised/seed$SEED
RUN_DIR=$OUTPUT_DIR/grpo/seed$SEED
LOG=$(realpath -m "${VERL_FILE_LOGGER_PATH:-$RUN_DIR/metrics.jsonl}")
mkdir -p "$RUN_DIR" "$(dirname "$LOG")"
# verl empties its log as it starts; an earlier start's stays beside it
if [ -s "$LOG" ]; then mv "$LOG" "$LOG.$(date +%s)"; fi
touch "$LOG"

# noise on groups with differing rewards alone lost nothing in recipes/lab
DITHERING=(redit="$REDIT" redit.apply_to=mixed redit.seed="$SEED")
if [ "$REDIT" = none ]; then
    DITHERING=("~redit")
fi

python3 -m verl.trainer.main_ppo \
    --config-path "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/config" \
    --config-name suite_gsm8k \
    "${DITHERING[@]}" \
    paft="$POLICY" \
    paft.pool="$POOL" \
    paft.seed="$SEED" \
    flexora.selection="${SELECTION:-$FIRST/flexora/selection.json}" \
    data.seed="$SEED" \
    actor_rollout_ref.rollout.seed="$SEED" \
    data.train_files="$DATA_DIR/train.parquet" \
    data.val_files="$DATA_DIR/test.parquet" \
    actor_rollout_ref.model.path="${MODEL_PATH:-$FIRST/model}" \
    trainer.n_gpus_per_node="$NUM_GPUS" \
    trainer.experiment_name="grpo-seed$SEED" \
    +ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH="$LOG" \
    trainer.default_local_dir="$RUN_DIR" \
    trainer.validation_data_dir="$RUN_DIR/validation" \
    "$@"
