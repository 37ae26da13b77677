#!/usr/bin/env bash
# GRPO with LoRA on MATH, with reward dithering, on one GPU. Hyper-parameters: config/redit_math.yaml.
#
#   bash recipes/redit_math/run_qwen2_5_fsdp.sh                        # Qwen2.5-1.5B-Instruct
#   REDIT=none bash recipes/redit_math/run_qwen2_5_fsdp.sh             # the same run without dithering
#   # verl overrides at the end; a run with other settings needs a folder of its own
#   OUTPUT_DIR=checkpoints/wider bash recipes/redit_math/run_qwen2_5_fsdp.sh redit.std=0.0577

set -xeuo pipefail

############################# user settings #############################
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-1.5B-Instruct}
DATA_DIR=${DATA_DIR:-$HOME/data/math}
OUTPUT_DIR=${OUTPUT_DIR:-checkpoints/redit_math}
# gaussian, uniform, or none
REDIT=${REDIT:-gaussian}
NUM_GPUS=${NUM_GPUS:-1}
SEED=${SEED:-0}
#########################################################################

# whole paths, as workers of a Ray cluster start elsewhere
OUTPUT_DIR=$(realpath -m "$OUTPUT_DIR")
RUN_DIR=$OUTPUT_DIR/$REDIT/seed$SEED
LOG=$(realpath -m "${VERL_FILE_LOGGER_PATH:-$RUN_DIR/metrics.jsonl}")
mkdir -p "$RUN_DIR" "$(dirname "$LOG")"
# verl empties its log as it starts; an earlier start's stays beside it
if [ -s "$LOG" ]; then mv "$LOG" "$LOG.$(date +%s)"; fi
touch "$LOG"

DITHERING=(redit="$REDIT" redit.seed="$SEED")
if [ "$REDIT" = none ]; then
    DITHERING=("~redit")
fi

python3 -m verl.trainer.main_ppo \
    --config-path "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/config" \
    --config-name redit_math \
    "${DITHERING[@]}" \
    data.seed="$SEED" \
    actor_rollout_ref.rollout.seed="$SEED" \
    data.train_files="$DATA_DIR/train.parquet" \
    data.val_files="$DATA_DIR/test.parquet" \
    actor_rollout_ref.model.path="$MODEL_PATH" \
    trainer.n_gpus_per_node="$NUM_GPUS" \
    trainer.experiment_name="$REDIT-seed$SEED" \
    +ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH="$LOG" \
    trainer.default_local_dir="$RUN_DIR" \
    trainer.validation_data_dir="$RUN_DIR/validation" \
    "$@"
