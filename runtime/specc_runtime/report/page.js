'use strict';

// A part of the tree lights up the lines that it is from; pictures can be made larger and smaller.
(() => {
    const parts = document.querySelectorAll('a[data-file]');
    const linesOf = (part) => {
        const { file, first, last } = part.dataset;
        const found = [];
        for (let number = Number(first); number <= Number(last); number++) {
            const line = document.getElementById(`s${file}-${number}`);
            if (line) {
                found.push(line);
            }
        }
        return found;
    };
    const light = (name, part) => {
        for (const line of document.querySelectorAll(`.${name}`)) {
            line.classList.remove(name);
        }
        for (const line of part ? linesOf(part) : []) {
            line.classList.add(name);
        }
    };
    for (const part of parts) {
        part.addEventListener('mouseenter', () => light('near', part));
        part.addEventListener('mouseleave', () => light('near', null));
        part.addEventListener('focus', () => light('near', part));
        part.addEventListener('blur', () => light('near', null));
        part.addEventListener('click', (event) => {
            event.preventDefault();
            for (const other of parts) {
                other.removeAttribute('aria-current');
            }
            part.setAttribute('aria-current', 'true');
            light('lit', part);
            const [line] = linesOf(part);
            const box = line.closest('.code');
            if (box.scrollHeight > box.clientHeight) {
                const offset = line.getBoundingClientRect().top - box.getBoundingClientRect().top;
                box.scrollTo({ top: box.scrollTop + offset - 24 });
            }
            const { top, bottom } = box.getBoundingClientRect();
            if (bottom < 80 || top > window.innerHeight - 80) {
                box.scrollIntoView({ block: 'nearest' });
            }
        });
    }
    for (const figure of document.querySelectorAll('.picture')) {
        const svg = figure.querySelector('svg');
        const natural = svg.viewBox.baseVal.width;
        const box = figure.querySelector('.frame');
        let scale = 1;
        const show = (wanted) => {
            const middle = (box.scrollTop + (box.clientHeight / 2)) / svg.getBoundingClientRect().height;
            scale = Math.min(6, Math.max(0.05, wanted));
            svg.style.width = `${natural * scale}px`;
            svg.style.height = 'auto';
            box.scrollTop = (middle * svg.getBoundingClientRect().height) - (box.clientHeight / 2);
            figure.querySelector('output').textContent = `${Math.round(100 * scale)}%`;
        };
        const actions = {
            larger: () => show(scale * 1.25),
            smaller: () => show(scale / 1.25),
            width: () => show((box.clientWidth - 24) / natural),
            natural: () => show(1),
        };
        for (const button of figure.querySelectorAll('button')) {
            button.addEventListener('click', actions[button.value]);
        }
        box.addEventListener('wheel', (event) => {
            if (event.ctrlKey) {
                event.preventDefault();
                show(scale * (event.deltaY < 0 ? 1.1 : 1 / 1.1));
            }
        }, { passive: false });
        figure.classList.add('zooms');
    }
})();
