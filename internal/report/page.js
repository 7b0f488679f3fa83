(() => {
  'use strict';
  const tip = document.getElementById('tip');
  const names = ['bg', 'fg', 'muted', 'grid', 'front', 'c1', 'c2', 'c3', 'c4', 'c5', 'c6', 'c7', 'c8'];
  // Titles become tooltips that appear at once, and on a touch.
  const texts = new Map();
  for (const t of document.querySelectorAll('svg.fig title')) {
    texts.set(t.parentNode, t.textContent);
    t.remove();
  }
  const cell = (g, e) => {
    const d = g.dataset, svg = g.ownerSVGElement;
    const at = new DOMPoint(e.clientX, e.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const l = Math.floor((at.y - d.y) / d.h), h = Math.floor((at.x - d.x) / d.w);
    const v = ((d.v.split(';')[l] || '').split(' '))[h];
    return v ? 'layer ' + l + ', head ' + h + ': ' + v : '';
  };
  const point = e => {
    let text = '';
    if (e.target.closest) {
      const heat = e.target.closest('.heat');
      if (heat) text = cell(heat, e);
      for (let n = e.target; n; n = n.parentNode) if (texts.has(n)) { text = texts.get(n); break; }
    }
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    const r = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(e.clientX + 12, innerWidth - r.width - 4)) + 'px';
    tip.style.top = (e.clientY + r.height + 16 > innerHeight ? Math.max(4, e.clientY - r.height - 12) : e.clientY + 14) + 'px';
  };
  document.addEventListener('pointermove', point);
  document.addEventListener('pointerdown', point);
  const save = (name, url) => {
    const a = document.createElement('a');
    a.href = url;
    a.download = name;
    a.click();
  };
  // A figure as a file of its own, with the colours that it has now.
  const alone = fig => {
    const shown = fig.querySelector('svg'), svg = shown.cloneNode(true), box = shown.viewBox.baseVal;
    const now = getComputedStyle(document.documentElement);
    for (const n of names) svg.style.setProperty('--' + n, now.getPropertyValue('--' + n));
    svg.setAttribute('width', box.width);
    svg.setAttribute('height', box.height);
    const style = document.createElementNS('http://www.w3.org/2000/svg', 'style');
    style.textContent = document.getElementById('figure-style').textContent + (document.getElementById('ci').checked ? '' : '.fig .ci{display:none}') + '.off{opacity:.08}';
    svg.prepend(style);
    return { text: new XMLSerializer().serializeToString(svg), width: box.width, height: box.height };
  };
  document.addEventListener('click', e => {
    // A click on a line of a legend fades its series in that figure.
    const leg = e.target.closest('.leg');
    if (leg?.dataset.s) {
      const gone = leg.classList.toggle('gone');
      for (const g of leg.ownerSVGElement.querySelectorAll('[data-s]')) if (g !== leg) if (g.dataset.s === leg.dataset.s) g.classList.toggle('off', gone);
      return;
    }
    const kind = e.target.dataset?.save;
    if (!kind) return;
    const fig = e.target.closest('figure'), name = fig.id + '.' + kind, { text, width, height } = alone(fig);
    const url = 'data:image/svg+xml;charset=utf-8,' + encodeURIComponent(text);
    if (kind === 'svg') { save(name, url); return; }
    const img = new Image();
    img.onload = () => {
      const c = document.createElement('canvas');
      c.width = 2 * width;
      c.height = 2 * height;
      c.getContext('2d').drawImage(img, 0, 0, c.width, c.height);
      save(name, c.toDataURL('image/png'));
    };
    img.src = url;
  });
})();
