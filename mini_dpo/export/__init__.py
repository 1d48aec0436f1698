"""A trained model as a folder that Hugging Face's transformers loads: its weights (`folder`), its vocabulary
and chat template (`vocabulary`), and a model card (`card`).
"""
