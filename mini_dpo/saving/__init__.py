"""What a run keeps on the disk: models and its folder (`checkpoint`), the state of a stage for resuming
(`stages`), and the reference's log-probs (`reference_cache`).
"""
