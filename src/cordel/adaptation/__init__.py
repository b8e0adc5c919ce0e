"""Track 2: an open model adapted by continued pretraining and supervised fine-tuning (QLoRA)."""
