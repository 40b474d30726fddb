'use strict';
// Looks up what was computed when the page was written, and shows it.
(() => {
  const byId = (id) => document.getElementById(id);
  const orders = JSON.parse(byId('operating-points').textContent);
  const [order, slider, download, back] = ['order', 'point', 'download', 'back'].map(byId);
  const plot = document.querySelector(`#curve-${order.value}`).ownerSVGElement;
  const marker = plot.appendChild(document.createElementNS(plot.namespaceURI, 'circle'));
  marker.id = 'marker';
  marker.setAttribute('r', 8);
  const start = order.value;
  const chosen = () => orders[order.value].points[slider.value];

  function show() {
    const point = chosen();
    for (const cell of document.querySelectorAll('[data-shown]')) {
      cell.textContent = point.shown[cell.dataset.shown];
    }
    [...byId('precisions').tBodies[0].rows].forEach((row, k) => {
      point.precisions[k].forEach((text, column) => { row.cells[column + 1].textContent = text; });
    });
    marker.setAttribute('cx', point.at[0]);
    marker.setAttribute('cy', point.at[1]);
    for (const name of Object.keys(orders)) {
      byId(`curve-${name}`).classList.toggle('dim', name !== order.value);
    }
    const isCurrent = orders[order.value].current === Number(slider.value);
    back.disabled = isCurrent;
    slider.setAttribute(
      'aria-valuetext',
      `relative cost ${point.shown.cost}, expected accuracy ${point.shown.accuracy}` +
        (isCurrent ? ', the current operating point' : ''),
    );
  }

  function select(index) {
    slider.max = orders[order.value].points.length - 1;
    slider.value = index;
    show();
  }

  slider.addEventListener('input', show);
  order.addEventListener('change', () => {
    // Chooses the point of the other order whose cost is nearest to that of the one shown.
    const x = Number(marker.getAttribute('cx'));
    const away = orders[order.value].points.map((point) => Math.abs(point.at[0] - x));
    select(away.indexOf(Math.min(...away)));
  });
  back.addEventListener('click', () => {
    order.value = start;
    select(orders[start].current);
    slider.focus();
  });
  download.addEventListener('click', () => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([chosen().file], { type: 'application/json' }));
    link.download = 'operating_point.json';
    link.click();
    // Some browsers read the file only after the click has been handled, so it is kept for a while.
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });

  for (const control of [order, slider, download]) control.disabled = false;
  select(orders[start].current);
})();
