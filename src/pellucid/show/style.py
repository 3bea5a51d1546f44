"""The look of cards and pages: one style sheet, light and dark, narrow and wide."""

from html import escape

__all__ = ["CARD", "PAGE", "web_page"]

CARD = """
.pellucid{--ink:#1b1b1b;--soft:#5a5a5a;--line:#d9d9d9;--paper:#ffffff;--good:#0b5fa5;--bad:#a3341a;
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;color:var(--ink);
background:var(--paper);
border:1px solid var(--line);border-radius:8px;padding:.9rem 1rem;max-width:46rem;box-sizing:border-box;min-width:0}
@media (prefers-color-scheme:dark){.pellucid{--ink:#ececec;--soft:#b0b0b0;--line:#444;--paper:#1f2023;
--good:#8cc4ff;--bad:#ffab91}}
.pellucid .headline{font-weight:650;font-size:1.05rem;color:var(--ink);margin:0;line-height:1.3}
.pellucid .details{color:var(--soft);margin:.15rem 0 .6rem;font-size:.9rem}
.pellucid img{display:block;margin:0 0 .5rem;max-width:100%;height:auto;background:#fff;border-radius:4px}
.pellucid table{border-collapse:collapse;width:100%;margin:.3rem 0;font-size:.85rem;background:none;color:inherit}
.pellucid th,.pellucid td{text-align:left;vertical-align:top;padding:.2rem .5rem .2rem 0;border:0;
border-bottom:1px solid var(--line);
font-weight:400;background:none;color:inherit;white-space:normal}
.pellucid thead th{color:var(--soft);font-size:.8rem}
.pellucid td.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.pellucid table.bars tbody th,.pellucid table.bars tbody td{border-bottom-color:transparent;padding-top:.08rem;
padding-bottom:.08rem;vertical-align:middle}
.pellucid table.bars .bar{width:42%;padding-right:0;vertical-align:middle}
.pellucid table.bars .bar span{display:block;height:.75rem;min-width:1px;border-radius:2px;filter:saturate(1.1)}
.pellucid table.bars tfoot th,.pellucid table.bars tfoot td{border-bottom:0;border-top:1px solid var(--line);
font-weight:650}
@media (prefers-color-scheme:dark){.pellucid table.bars .bar span{filter:brightness(1.45)}}
.pellucid summary{cursor:pointer;font-size:.9rem}
.pellucid .passed,.compared .passed{color:var(--good);white-space:nowrap}
.pellucid .failed,.compared .failed{color:var(--bad);font-weight:650;white-space:nowrap}
.pellucid .failure{font-size:.85rem;margin:.3rem 0}
.pellucid .scale{font-size:.8rem;color:var(--soft);margin:.3rem 0;display:flex;flex-wrap:wrap;gap:.2rem .6rem;
align-items:center}
.pellucid .scale i{display:inline-block;width:7rem;height:.6rem;border-radius:2px}
.pellucid .small{font-size:.8rem;color:var(--soft);margin:.35rem 0 0;overflow-wrap:anywhere}
"""

PAGE = """
:root{color-scheme:light dark;--ink:#1b1b1b;--soft:#5a5a5a;--line:#d9d9d9;--ground:#f6f6f4;--good:#0b5fa5;
--bad:#a3341a}
@media (prefers-color-scheme:dark){:root{--ink:#ececec;--soft:#b0b0b0;--line:#444;--ground:#141518;
--good:#8cc4ff;--bad:#ffab91}}
body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main,header,footer{max-width:72rem;margin:0 auto;padding:0 1.1rem;box-sizing:border-box}
h1{font-size:1.7rem;line-height:1.2;margin:1.6rem 0 .4rem}
h2{font-size:1.25rem;line-height:1.25;margin:2.4rem 0 .3rem;padding-top:1rem;border-top:1px solid var(--line)}
p{max-width:46rem;margin:.4rem 0}
a{color:inherit}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;list-style:none;padding:0;margin:.6rem 0}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,15.5rem),1fr));gap:1rem;
margin:.9rem 0;align-items:start}
.cards:has(> .table,> .tensor){grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr))}
.cards .pellucid:not(:only-child){max-width:none}
.cards .pellucid:not(:only-child) table.bars .bar{width:32%}
.wide{overflow-x:auto;margin:.9rem 0}
table.compared{border-collapse:collapse;font-size:.9rem;min-width:max-content}
p.said{font-weight:650;margin-top:.8rem}
table.compared caption{text-align:left;color:var(--soft);padding-bottom:.3rem}
table.compared th,table.compared td{text-align:left;padding:.25rem 1.1rem .25rem 0;
border-bottom:1px solid var(--line);vertical-align:top}
table.compared td.number,table.compared th.number{text-align:right;font-variant-numeric:tabular-nums;
white-space:nowrap}
footer{color:var(--soft);font-size:.85rem;padding-top:2rem;padding-bottom:2rem}
@media (max-width:30rem){h1{font-size:1.4rem}.pellucid{padding:.7rem .75rem}}
@media print{.pellucid,section{break-inside:avoid}}
"""


def web_page(title: str, body: str) -> str:
    """A page with a heading, that holds a piece of HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{PAGE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1></header>\n<main>{body}</main>\n</body>\n</html>\n"
    )
