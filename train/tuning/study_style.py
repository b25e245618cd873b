"""Style and script that the page of a study has beside those of all pages.

The shades are viridis, which colour-blind readers tell apart by lightness, from
the one that stands out most from the page for the best trial.
"""

STYLE = """
:root { --pink: #b0508a; --shade0: #440154; --shade1: #46337e;
  --shade2: #365c8d; --shade3: #277f8e; --shade4: #1fa187; --shade5: #4ac16d;
  --shade6: #9fda3a; --winner: #d55e00; }
@media (prefers-color-scheme: dark) { :root { --pink: #e08bbb;
  --shade0: #fde725; --shade1: #9fda3a; --shade2: #4ac16d; --shade3: #1fa187;
  --shade4: #277f8e; --shade5: #4a6fa0; --shade6: #6450a6;
  --winner: #ff7a45; } }
.trial { overflow: visible; }
.key .trial.default > *, .key .trial.winner > * { transform: scale(0.6); }
.many .trial.complete > * { transform: scale(0.8); }
.many .curve.complete { stroke-width: 1; opacity: 0.3; }
.many .plot .curve[class*=shade] { stroke-width: 1.2;
  opacity: 0.6; }
.many .plot .curve.shade0 { stroke-width: 2; opacity: 1; }
.slices { margin-top: 10px; }
.narrow { max-width: 640px; }
.trial > * { fill: var(--blue); stroke: var(--card); stroke-width: 1; }
.trial.pruned > * { fill: none; stroke: var(--dim); stroke-width: 1.5; }
.trial.failed > * { fill: var(--pink); }
.trial.running > * { fill: var(--card); stroke: var(--dim); stroke-width: 2; }
.trial.above > *, .trial.below > * { fill: var(--card); stroke: var(--blue);
  stroke-width: 2; }
.trial.default > * { fill: none; stroke: var(--ink); stroke-width: 1.5; }
.trial.winner > * { fill: none; stroke: var(--winner); stroke-width: 3; }
.trial.front > * { fill: none; stroke: var(--green); stroke-width: 2; }
.curve.best { stroke: var(--green); }
.curve.complete { stroke-width: 1.5; opacity: 0.55; }
.curve.pruned, .curve.running { stroke: var(--dim); stroke-width: 1.2;
  opacity: 0.6; }
.curve.failed { stroke: var(--pink); stroke-width: 1.5; }
.curve.default { stroke-dasharray: 6 4; }
.plot .curve.default:not([class*=shade]), .key .curve.default {
  stroke: var(--ink); }
.curve.winner { stroke: var(--winner); stroke-width: 3.5; opacity: 1; }
line.default { stroke: var(--ink); stroke-dasharray: 2 3; }
.mean { stroke: var(--winner); stroke-width: 3; }
.shade0 { stroke: var(--shade0); stroke-width: 2.5; }
.shade1 { stroke: var(--shade1); } .shade2 { stroke: var(--shade2); }
.shade3 { stroke: var(--shade3); } .shade4 { stroke: var(--shade4); }
.shade5 { stroke: var(--shade5); opacity: 0.8; }
.shade6 { stroke: var(--shade6); opacity: 0.8; }
.shades { width: 84px; height: 12px; vertical-align: -1px; }
.shades line { stroke-width: 8; stroke-linecap: butt; opacity: 1; }
.across { overflow-x: auto; }
.across .curves { overflow: visible; }
.across .plot { height: 300px; margin: 54px 60px 40px 44px;
  width: calc(100% - 104px); }
.choices { margin: -4px 0 8px; padding-left: 24px; font-size: 13px;
  color: var(--dim); overflow-wrap: anywhere; }
.shares { width: 100%; }
.shares th { text-align: left; font-weight: 400; padding: 4px 12px 4px 0;
  white-space: nowrap; }
.shares .bars { width: 100%; line-height: 0; }
.shares td:last-child { padding-left: 10px; }
.shares td { font-variant-numeric: tabular-nums; text-align: right; }
.share { fill: var(--blue); }
.has-lit [data-trial]:not(.lit) { opacity: 0.15 !important; }
.curve.lit { stroke-width: 4 !important; opacity: 1 !important; }
@media (max-width: 520px) {
  .data th, .data td { padding: 5px 8px; } }
.reasons .data th:first-child, .reasons .data td:first-child { width: 1px; }
.reasons .data .text:last-child { white-space: pre-line;
  overflow-wrap: anywhere; }
.data tr.lit td { background: var(--line); }
"""

# What is pointed at in one chart lights up in all of them.
SCRIPT = """
{
  const rows = new Map();
  const heads = [...document.querySelectorAll('#trials th')];
  for (const row of document.querySelectorAll('#trials tbody tr'))
    rows.set(row.cells[0].textContent, row);
  const all = (number) =>
    document.querySelectorAll('[data-trial="' + number + '"]');
  let lit = null;
  const show = (mark) => {
    const number = mark === null ? null : mark.dataset.trial;
    if (number === lit) return;
    if (lit !== null) {
      for (const other of all(lit)) other.classList.remove('lit');
      if (rows.has(lit)) rows.get(lit).classList.remove('lit');
      for (const line of document.querySelectorAll('.readout'))
        line.textContent = '';
    }
    lit = number;
    document.body.classList.toggle('has-lit', lit !== null);
    if (lit === null) return;
    for (const other of all(lit)) other.classList.add('lit');
    const row = rows.get(lit);
    if (!row) return;
    row.classList.add('lit');
    mark.closest('figure').querySelector('.readout').textContent =
      [...row.cells].map((cell, i) => heads[i].textContent + ' '
        + cell.textContent).join('  \\u00b7  ');
  };
  for (const kind of ['pointerover', 'pointerdown'])
    document.addEventListener(kind, (event) =>
      show(event.target.closest('[data-trial]')));
}
"""
