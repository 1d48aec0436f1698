"""Worlds with a known reward, one file each: shop.py is the toy shop.

A world offers prompts (`write_prompt`, and `read_prompt`, which recognises them), a grammar of responses
(`write_response`), pairs of responses with a noisy preference (`preference`), and a judge: (prompt, response)
-> Marks, by name, and their sum, the true reward.
"""
