#!/usr/bin/env bash
# GRPO with LoRA on GSM8K, every prompt rendered with a template of a pool, on one GPU. Hyper-parameters:
# config/paft_gsm8k.yaml.
#
#   bash recipes/paft_gsm8k/run_qwen2_5_fsdp.sh                          # Qwen2.5-0.5B-Instruct
#   POLICY=static bash recipes/paft_gsm8k/run_qwen2_5_fsdp.sh            # one template for each question, for ever
#   POLICY=fixed bash recipes/paft_gsm8k/run_qwen2_5_fsdp.sh             # the control: one template for all
#   bash recipes/paft_gsm8k/run_qwen2_5_fsdp.sh trainer.total_epochs=3   # any verl override at the end

set -xeuo pipefail

############################# user settings #############################
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-0.5B-Instruct}
DATA_DIR=${DATA_DIR:-$HOME/data/gsm8k}
OUTPUT_DIR=${OUTPUT_DIR:-checkpoints/paft_gsm8k}
# cycle, uniform, block, stratified, adaptive, static or fixed
POLICY=${POLICY:-cycle}
# a bundled pool or a file of your own
POOL=${POOL:-gsm8k}
NUM_GPUS=${NUM_GPUS:-1}
SEED=${SEED:-0}
#########################################################################

# whole paths, as workers of a Ray cluster start elsewhere
OUTPUT_DIR=$(realpath -m "$OUTPUT_DIR")
RUN_DIR=$OUTPUT_DIR/$POLICY/seed$SEED
LOG=$(realpath -m "${VERL_FILE_LOGGER_PATH:-$RUN_DIR/metrics.jsonl}")
mkdir -p "$RUN_DIR" "$(dirname "$LOG")"
# verl empties its log as it starts; an earlier start's stays beside it
if [ -s "$LOG" ]; then mv "$LOG" "$LOG.$(date +%s)"; fi
touch "$LOG"

# adaptive weights need the closed loop
MODE=sync
if [ "$POLICY" = adaptive ]; then
    MODE=redit_sync
fi

python3 -m verl.trainer.main_ppo \
    --config-path "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/config" \
    --config-name paft_gsm8k \
    paft="$POLICY" \
    paft.pool="$POOL" \
    paft.seed="$SEED" \
    data.seed="$SEED" \
    actor_rollout_ref.rollout.seed="$SEED" \
    data.train_files="$DATA_DIR/train.parquet" \
    data.val_files="$DATA_DIR/test.parquet" \
    actor_rollout_ref.model.path="$MODEL_PATH" \
    trainer.n_gpus_per_node="$NUM_GPUS" \
    trainer.v1.trainer_mode="$MODE" \
    trainer.experiment_name="$POLICY-seed$SEED" \
    +ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH="$LOG" \
    trainer.default_local_dir="$RUN_DIR" \
    trainer.validation_data_dir="$RUN_DIR/validation" \
    "$@"
