"""What a run keeps on the disk: models and its folder (`checkpoint`), GPT-2 as others publish it
(`huggingface`, `foreign`), the state of a stage for resuming
(`stages`), and the reference's log-probs (`reference_cache`).
"""
