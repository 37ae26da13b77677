#!/usr/bin/env bash
# GRPO with LoRA on GSM8K, on the layers that deserve it, on one GPU. Hyper-parameters: config/flexora_gsm8k.yaml.
#
#   bash recipes/flexora_gsm8k/run_qwen2_5_fsdp.sh                       # search, then go on, in one run
#   FLEXORA=search bash recipes/flexora_gsm8k/run_qwen2_5_fsdp.sh trainer.total_epochs=1     # two runs: search …
#   FLEXORA=selected bash recipes/flexora_gsm8k/run_qwen2_5_fsdp.sh                          # … and train on its choice

set -xeuo pipefail

############################# user settings #############################
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-0.5B-Instruct}
DATA_DIR=${DATA_DIR:-$HOME/data/gsm8k}
OUTPUT_DIR=${OUTPUT_DIR:-checkpoints/flexora_gsm8k}
# one_run, or search and then selected, or none for all layers
FLEXORA=${FLEXORA:-one_run}
# what FLEXORA=selected trains on; by default the outcome of FLEXORA=search with the same seed
SELECTION=${SELECTION:-}
NUM_GPUS=${NUM_GPUS:-1}
SEED=${SEED:-0}
#########################################################################

# whole paths, as workers of a Ray cluster start elsewhere
OUTPUT_DIR=$(realpath -m "$OUTPUT_DIR")
RUN_DIR=$OUTPUT_DIR/$FLEXORA/seed$SEED
LOG=$(realpath -m "${VERL_FILE_LOGGER_PATH:-$RUN_DIR/metrics.jsonl}")
mkdir -p "$RUN_DIR" "$(dirname "$LOG")"
# verl empties its log as it starts; an earlier start's stays beside it
if [ -s "$LOG" ]; then mv "$LOG" "$LOG.$(date +%s)"; fi
touch "$LOG"

CHOICE=(flexora="$FLEXORA" flexora.seed="$SEED")
if [ "$FLEXORA" = none ]; then
    CHOICE=("~flexora")
elif [ "$FLEXORA" = selected ]; then
    CHOICE+=(flexora.selection="${SELECTION:-$OUTPUT_DIR/search/seed$SEED/flexora/selection.json}")
fi

python3 -m verl.trainer.main_ppo \
    --config-path "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/config" \
    --config-name flexora_gsm8k \
    "${CHOICE[@]}" \
    data.seed="$SEED" \
    actor_rollout_ref.rollout.seed="$SEED" \
    data.train_files="$DATA_DIR/train.parquet" \
    data.val_files="$DATA_DIR/test.parquet" \
    actor_rollout_ref.model.path="$MODEL_PATH" \
    trainer.n_gpus_per_node="$NUM_GPUS" \
    trainer.experiment_name="$FLEXORA-seed$SEED" \
    +ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH="$LOG" \
    trainer.default_local_dir="$RUN_DIR" \
    "$@"
