"""Distilling a captioner, as the CogVideoX paper did (appendix G): one model learns what a costly route wrote.

`--task caption` teaches a video model the finished captions (the paper's step 5, CogVLM2-Caption); `--task summary`
teaches a language model to sum up captions of frames (step 4, Llama 2 in the place of GPT-4).

transformers' Trainer runs the steps, peft the LoRA. Ours are the pairs, their order, which tokens the loss counts,
checkpoints that survive kill -9, and the folder that the captioner stage takes.
"""
