"""What a run keeps on the disk: models (`checkpoint`), the state of a stage, from which it goes on
(`stages`), and the reference's log-probs (`reference_cache`).
"""
