"""The model of benchmarks/train_step.py, written in PyTorch's usual way."""

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
  """Pre-norm attention with rotary positions, and a GELU feed-forward."""

  def __init__(self, width: int):
    super().__init__()
    self.heads = width // 64
    self.attention_norm = nn.RMSNorm(width)
    self.mlp_norm = nn.RMSNorm(width)
    self.qkv = nn.Linear(width, 3 * width, bias=False)
    self.out = nn.Linear(width, width, bias=False)
    self.up = nn.Linear(width, 4 * width, bias=False)
    self.down = nn.Linear(4 * width, width, bias=False)

  def forward(self, x, cos, sin):
    """Applies the block to x [batch, length, width]."""
    B, T, D = x.shape
    q, k, v = (
      part.view(B, T, self.heads, D // self.heads).transpose(1, 2)
      for part in self.qkv(self.attention_norm(x)).split(D, dim=2)
    )
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + self.out(y.transpose(1, 2).reshape(B, T, D))
    h = functional.gelu(self.up(self.mlp_norm(x)), approximate='tanh')
    return x + self.down(h)


class Transformer(nn.Module):
  """Tied embeddings around a stack of blocks."""

  def __init__(self, layers: int, width: int, length: int, vocab: int):
    super().__init__()
    self.embedding = nn.Embedding(vocab, width)
    nn.init.normal_(self.embedding.weight, std=0.02)
    self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
    self.norm = nn.RMSNorm(width)
    frequencies = 10_000.0 ** (-torch.arange(0, 64, 2) / 64)
    angles = torch.arange(length)[:, None] * frequencies
    self.register_buffer('cos', angles.cos())
    self.register_buffer('sin', angles.sin())

  def forward(self, tokens, targets):
    """Mean cross-entropy."""
    x = self.embedding(tokens)
    for block in self.blocks:
      x = block(x, self.cos, self.sin)
    logits = functional.linear(self.norm(x), self.embedding.weight)
    return functional.cross_entropy(
      logits.float().view(-1, logits.shape[-1]), targets.reshape(-1)
    )


def rotate(x, cos, sin):
  """Rotary embedding of x [batch, heads, length, 64]."""
  first, second = x.float().chunk(2, dim=-1)
  turned = (first * cos - second * sin, second * cos + first * sin)
  return torch.cat(turned, dim=-1).type_as(x)


def torch_round(
  *,
  layers: int,
  width: int,
  batch: int,
  length: int,
  vocab: int,
  dtype: str,
  steps: int,
  compiled: bool,
) -> Callable[[], float]:
  """A function that runs some steps and returns their seconds."""
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  torch.manual_seed(0)
  model = Transformer(layers, width, length, vocab).to(device)
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=3e-4, betas=(0.9, 0.95), fused=True
  )
  forward = torch.compile(model) if compiled else model
  rows = torch.randint(4, vocab, (batch, length + 1), device=device)
  low_precision = dtype == 'bfloat16'

  def step():
    with torch.autocast(device, torch.bfloat16, enabled=low_precision):
      loss = forward(rows[:, :-1], rows[:, 1:])
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)

  def measure() -> float:
    begin = time.perf_counter()
    for _ in range(steps):
      step()
    if device == 'cuda':
      torch.cuda.synchronize()
    return time.perf_counter() - begin

  return measure
