"""Everyone's file, read: from bytes to rows (`files`), from a row to a prompt and its responses, a short
function for each form (`forms`, with `conversations`), and a file's examples, checked (`loading`).
"""
