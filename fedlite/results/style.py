"""The look of report.html: one column of cards, light or dark as the reader's system is, printable."""

CSS = """
:root{color-scheme:light dark;--page:#f4f5f7;--card:#fff;--ink:#1b2430;--soft:#5c6878;--edge:#e2e6ec;
--k0:#2563eb;--k1:#d9730d;--k2:#0f9d74;--k3:#8250df;--k4:#cf3a7c;--k5:#76839a}
@media(prefers-color-scheme:dark){:root{--page:#12161c;--card:#1a2029;--ink:#e6eaf0;--soft:#97a3b4;--edge:#2c3542;
--k0:#6ea2ff;--k1:#f5a04c;--k2:#3ecf9f;--k3:#b695ff;--k4:#f27db0;--k5:#93a0b5}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}
header{margin-bottom:20px}
h1{font-size:26px;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:15px;margin:0 0 8px}
header p,section>p{margin:2px 0 0;color:var(--soft);font-size:13px;overflow-wrap:anywhere}
.card{background:var(--card);border:1px solid var(--edge);border-radius:10px;padding:14px 16px;
margin:0 0 16px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(116px,1fr));gap:10px;margin-bottom:16px}
.tile{margin:0;padding:12px 12px;display:flex;flex-direction:column}
.tile span{color:var(--soft);font-size:12.5px}
.tile b{white-space:nowrap;font-size:18px;line-height:1.3;font-weight:620;font-variant-numeric:tabular-nums}
.tile small{color:var(--soft);font-size:12px;min-height:1.5em}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(440px,100%),1fr));gap:16px;margin-bottom:16px}
.grid .card{margin:0}
.wide{grid-column:1/-1}
figcaption{display:flex;flex-wrap:wrap;justify-content:space-between;gap:2px 16px;font-weight:620;
margin-bottom:8px}
figcaption ul{display:flex;flex-wrap:wrap;gap:2px 14px;list-style:none;margin:0;padding:0;font-weight:400;
font-size:13px;color:var(--soft)}
figcaption b{color:var(--ink);font-weight:600;font-variant-numeric:tabular-nums}
figcaption i{display:inline-block;width:10px;height:10px;border-radius:3px;background:var(--c);
margin-right:6px}
svg{display:block;width:100%;height:auto;overflow:visible}
.tick,.name{font-size:11px;fill:var(--soft);font-variant-numeric:tabular-nums}
.grid line.grid{stroke:var(--edge);stroke-width:1;shape-rendering:crispEdges}
.line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.fill{fill:var(--c)}
.empty{fill:var(--edge);opacity:.45}
.band{fill:transparent}
.band:hover{fill:var(--soft);opacity:.16}
rect.fill:hover{opacity:.75}
.c0{--c:var(--k0)}.c1{--c:var(--k1)}.c2{--c:var(--k2)}.c3{--c:var(--k3)}.c4{--c:var(--k4)}.c5{--c:var(--k5)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th{text-align:left;font-weight:500;color:var(--soft);border-bottom:1px solid var(--edge);
padding:4px 14px 4px 0}
td{padding:4px 14px 4px 0;border-bottom:1px solid var(--edge);overflow-wrap:anywhere;
font-variant-numeric:tabular-nums}
tr:last-child td{border-bottom:0}
.number{text-align:right;white-space:nowrap}
.wide{overflow-x:auto}.wide svg{min-width:760px}
@media print{body{background:none}.card{break-inside:avoid}}
"""
