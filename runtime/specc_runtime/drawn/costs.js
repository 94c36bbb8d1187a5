// What the nodes of a drawing take: told in Netron's sidebar through its own attachments, shown by colours and shares.
// Classes are coloured by rules that are appended to Netron's stylesheet, because its exporter copies from there.
'use strict';

(() => {
    const SVG = 'http://www.w3.org/2000/svg';
    const LIMITS = [0.01, 0.05, 0.15, 0.4]; // shares of the whole at which the next colour begins
    let loading = null;
    let attached = null;

    const load = () => {
        loading = loading || fetch('data/costs.json').then((answer) => answer.json());
        return loading;
    };

    const text = (content, x, y) => {
        const element = document.createElementNS(SVG, 'text');
        element.setAttribute('x', x);
        element.setAttribute('y', y);
        element.textContent = content;
        return element;
    };

    const heat = (share) => LIMITS.filter((limit) => share >= limit).length;

    const percent = (share) => {
        const number = 100 * share;
        return number < 0.1 ? '<0.1%' : number < 10 ? `${number.toFixed(1)}%` : `${Math.round(number)}%`;
    };

    const paintNode = (element, share) => {
        for (const item of element.querySelectorAll(':scope > .node-item-type')) {
            item.classList.add(`specc-heat-${heat(share)}`);
        }
        const border = element.querySelector(':scope > .node-border');
        const { width } = border.getBBox();
        // Above the node, beside the edge that comes in at its middle; a narrow node has edges all over its top.
        const label = width < 60 ? text(percent(share), width + 3, 14) : text(percent(share), (width / 2) + 7, -3);
        label.setAttribute('class', 'specc-share');
        element.appendChild(label);
    };

    const paintLegend = (origin, title) => {
        const box = origin.getBBox();
        const legend = document.createElementNS(SVG, 'g');
        legend.setAttribute('class', 'specc-legend');
        legend.appendChild(text(title, 0, 0));
        const names = ['< 1%', '\u2265 1%', '\u2265 5%', '\u2265 15%', '\u2265 40%'];
        for (let i = 0; i < names.length; i++) {
            const item = document.createElementNS(SVG, 'g');
            item.setAttribute('class', `node-item node-item-type specc-heat-${i}`);
            const patch = document.createElementNS(SVG, 'path');
            patch.setAttribute('d', `M${44 * i} 6 h40 v14 h-40 z`);
            item.appendChild(patch);
            const name = text(names[i], (44 * i) + 5, 16);
            item.appendChild(name);
            legend.appendChild(item);
        }
        legend.setAttribute('transform', `translate(${box.x},${box.y - 44})`);
        origin.appendChild(legend);
    };

    const paint = (costs) => {
        const view = window.__view__;
        const origin = document.querySelector('#canvas #origin');
        if (!view || !view.model || !view.target || !origin) {
            return;
        }
        if (attached !== view.model) {
            view.model.attachment.metrics.open(costs.metrics);
            attached = view.model;
        }
        const nodes = document.querySelectorAll('#canvas [id^="node-name-"]');
        if (nodes.length === 0 || origin.querySelector('.specc-legend')) {
            return;
        }
        if (Array.from(nodes).some((node) => node.style.opacity === '0')) { // not laid out yet
            return;
        }
        paintLegend(origin, costs.specc.title);
        const shares = new Map(Object.entries(costs.specc.shares));
        for (const node of nodes) {
            const share = shares.get(node.id.substring('node-name-'.length));
            if (share !== undefined) {
                paintNode(node, share);
            }
        }
    };

    // The headless browser calls this before it exports.
    window.__specc__ = async () => paint(await load());

    let waiting = false;
    const changed = () => {
        if (!waiting) {
            waiting = true;
            requestAnimationFrame(async () => {
                waiting = false;
                await window.__specc__();
            });
        }
    };
    new MutationObserver(changed).observe(document.documentElement, {
        childList: true, subtree: true, attributes: true, attributeFilter: ['class', 'style']
    });
})();
