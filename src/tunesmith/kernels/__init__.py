"""Numerics that know no model: tensors in, tensors out. Which path to use when:

    a frozen linear layer with LoRA         lora.lora_linear
    several of one input (q k v, gate up)   lora.lora_product, their weights joined once
    loss whose token weights are known      token_loss.linear_cross_entropy: logits formed once
    loss that needs the log-probs first     token_loss.token_log_probs: logits formed twice
    attention in a packed row               spans.document_spans once a batch, then
                                            attention.packed_attention; with a joint product and a
                                            CPU attention.packed_rotary_attention
    root-mean-square norm, silu(gate) * up  norms.rms_norm, swiglu.swiglu
    one process that trains                 allocator.reuse_memory, when the engine is made: tensors
                                            get memory of their own from tensor_memory
    float32 or bfloat16                     precision.fast_dtype, from the processor's features

float32 on the CPU takes compiled kernels (`native.c`, built at first use); bfloat16 only those
that are element-wise; float64, other devices and machines without a compiler take PyTorch's own.
The numbers agree: within 1e-5 in float32 and 1e-10 in float64, of each tensor's norm.

What joins or consumes says so: `packed_rotary_attention` rotates its input in place, and
`lora_product` takes frozen weights only (a weight that learns belongs to `nn.Linear`).
"""
