"""The transformer once more, in plain numpy and float64, a token at a time."""

import math

import numpy as np

from model.config import ModelConfig


def _norm(x, node, index, config):
  scale = node['scale'] if index is None else node['scale'][index]
  if config.norm == 'layer':
    x = x - x.mean(-1, keepdims=True)
  y = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_epsilon) * scale
  if 'bias' in node:
    y = y + (node['bias'] if index is None else node['bias'][index])
  return y


def _apply(equation, x, node, index):
  y = np.einsum(equation, x, node['weight'][index].astype(np.float64))
  return y + node['bias'][index] if 'bias' in node else y


def _rotate(vector_H, position, theta):
  half = len(vector_H) // 2
  out_H = vector_H.copy()
  for i in range(half):
    angle = position / theta ** (i / half)
    pair = complex(vector_H[i], vector_H[i + half]) * complex(
      math.cos(angle), math.sin(angle)
    )
    out_H[i], out_H[i + half] = pair.real, pair.imag
  return out_H


def _attention(x_TD, node, layer, places, config):
  segments, positions, visible = places
  q_TNH = _apply('td,dnh->tnh', x_TD, node['query'], layer)
  k_TKH = _apply('td,dkh->tkh', x_TD, node['key'], layer)
  v_TKH = _apply('td,dkh->tkh', x_TD, node['value'], layer)
  if config.qk_norm:
    q_TNH = _norm(q_TNH, node['query_norm'], layer, config)
    k_TKH = _norm(k_TKH, node['key_norm'], layer, config)
  if config.positions == 'rope':
    for x in (q_TNH, k_TKH):
      for t, n in np.ndindex(x.shape[:2]):
        x[t, n] = _rotate(x[t, n], positions[t], config.rope_theta)
  out_TNH = np.zeros_like(q_TNH)
  group = config.num_heads // config.num_kv_heads
  for t, n in np.ndindex(q_TNH.shape[:2]):
    window = config.sliding_window or len(x_TD)
    seen = [
      s
      for s in range(len(x_TD))
      if segments[s] == segments[t]
      and (positions[s] <= positions[t] or visible[s])
      and abs(positions[t] - positions[s]) < window
    ]
    scores = k_TKH[seen, n // group] @ q_TNH[t, n] / math.sqrt(config.head_dim)
    if config.attention_softcap is not None:
      cap = config.attention_softcap
      scores = cap * np.tanh(scores / cap)
    weights = np.exp(scores - scores.max())
    out_TNH[t, n] = weights / weights.sum() @ v_TKH[seen, n // group]
  return _apply('tnh,nhd->td', out_TNH, node['out'], layer)


def _gelu(x):
  return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _mlp(x_TD, node, layer, config):
  up_TF = _apply('td,df->tf', x_TD, node['up'], layer)
  if config.mlp == 'gelu':
    h_TF = _gelu(up_TF)
  else:
    gate_TF = _apply('td,df->tf', x_TD, node['gate'], layer)
    silu_TF = gate_TF / (1 + np.exp(-gate_TF))
    h_TF = (silu_TF if config.mlp == 'swiglu' else _gelu(gate_TF)) * up_TF
  return _apply('tf,fd->td', h_TF, node['down'], layer)


def _moe(x_TD, node, layer, config):
  """Token by token, expert by expert."""
  moe = config.moe
  y_TD = np.zeros_like(x_TD)
  for x_D, y_D in zip(x_TD, y_TD, strict=True):
    logits_E = x_D @ node['router'][layer]
    if moe.score == 'softmax':
      scores_E = np.exp(logits_E) / np.exp(logits_E).sum()
    else:
      scores_E = 1 / (1 + np.exp(-logits_E))
    ranked_E = scores_E
    if 'selection_bias' in node:
      ranked_E = scores_E + node['selection_bias'][layer]
    chosen = np.argsort(-ranked_E)[: moe.experts_per_token]
    total = scores_E[chosen].sum() if moe.normalize_weights else 1
    for e in chosen:
      expert = {
        name: {'weight': node[name][:, e]} for name in ('up', 'gate', 'down')
      }
      weight = moe.weight_scale * scores_E[e] / total
      y_D += weight * _mlp(x_D[None], expert, layer, config)[0]
  if 'shared' in node:
    y_TD += _mlp(x_TD, node['shared'], layer, config)
  return y_TD


def hidden_states(
  params, tokens, segments, positions, config: ModelConfig, visible=None
):
  """x_TD of one row; visible marks the tokens that all of a segment sees."""
  if visible is None:
    visible = np.zeros(len(tokens), bool)
  places = (segments, positions, visible)
  x_TD = params['embedding'][tokens].astype(np.float64)
  if config.positions == 'learned':
    x_TD = x_TD + params['positions'][positions]
  blocks = params['blocks']
  width, depth = config.embed_dim, config.num_layers
  wider = width / (config.base_embed_dim or width)
  deeper = depth / (config.base_num_layers or depth)
  for layer in range(config.num_layers):
    h_TD = _norm(x_TD, blocks['attention_norm'], layer, config)
    h_TD = _attention(h_TD, blocks['attention'], layer, places, config)
    x_TD = x_TD + h_TD / deeper
    h_TD = _norm(x_TD, blocks['mlp_norm'], layer, config)
    if config.moe.num_experts:
      h_TD = _moe(h_TD, blocks['moe'], layer, config)
    else:
      h_TD = _mlp(h_TD, blocks['mlp'], layer, config)
    x_TD = x_TD + h_TD / deeper
  return _norm(x_TD, params['final_norm'], None, config) / wider
