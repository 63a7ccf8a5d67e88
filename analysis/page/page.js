(function(){
const root=document.documentElement,chosen={};
let specs={},config={},files={},folded={};
root.dataset.charts='0';root.dataset.errors='0';
function failed(error){root.dataset.errors=String(+root.dataset.errors+1);console.error(error)}
addEventListener('error',()=>{root.dataset.errors=String(+root.dataset.errors+1)});
async function unpack(id){
  const bytes=Uint8Array.from(atob(document.getElementById(id).textContent),c=>c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).text();
}
function fill(table){ // the rows of a folded table
  const space=table.lastElementChild;
  if(!space.firstChild&&folded[table.id])space.innerHTML=folded[table.id];
}
function reveal(){ // a link into a folded table opens it
  const target=location.hash&&document.getElementById(location.hash.slice(1));
  if(target&&target.tagName==='DETAILS'){target.open=true;target.scrollIntoView()}
}
function offer(link){ // a download, made when it is asked for
  const [name,suffix]=link.download.split(/\.(?=[a-z]+$)/),kind={csv:'text/csv',md:'text/markdown',tex:'application/x-tex'}[suffix];
  link.addEventListener('pointerdown',()=>{link.href=URL.createObjectURL(new Blob([files[name][suffix]],{type:kind}))});
  link.addEventListener('keydown',()=>{link.href=URL.createObjectURL(new Blob([files[name][suffix]],{type:kind}))});
}
const dark=matchMedia('(prefers-color-scheme: dark)');
function colour(name){return getComputedStyle(root).getPropertyValue(name).trim()}
function theme(config){
  const ink=colour('--ink'),soft=colour('--soft'),grid=colour('--grid');
  return Object.assign({},config,{background:'transparent',padding:4,
    axis:Object.assign({},config.axis,{labelColor:ink,titleColor:ink,gridColor:grid,domainColor:soft,tickColor:soft}),
    legend:Object.assign({},config.legend,{labelColor:ink,titleColor:ink}),
    title:Object.assign({},config.title,{color:ink,subtitleColor:soft}),
    header:Object.assign({},config.header,{labelColor:ink})});
}
function lines(text,length){ // words in lines of so many characters
  return text.split(' ').reduce((found,word)=>{
    const last=found[found.length-1];
    return last&&last.length+word.length<length?[...found.slice(0,-1),last+' '+word]:[...found,word]},[]);
}
function below(spec,columns,length){ // on a narrow screen legends stand below the plot, and its titles in several lines
  if(Array.isArray(spec)){spec.forEach(part=>below(part,columns,length));return}
  if(!spec||typeof spec!=='object')return;
  for(const channel of ['color','shape','opacity']){
    const encoding=spec.encoding&&spec.encoding[channel];
    if(encoding&&encoding.field&&encoding.legend!==null)
      encoding.legend=Object.assign({},encoding.legend,{orient:'bottom',columns,direction:encoding.type==='quantitative'?'horizontal':undefined,gradientLength:160});
  }
  const x=spec.encoding&&spec.encoding.x;
  if(x&&typeof x.title==='string')x.title=lines(x.title,length);
  ['layer','spec','hconcat','vconcat'].forEach(key=>spec[key]&&below(spec[key],columns,length));
}
function fit(original,space){
  let text=JSON.stringify(original);
  if(dark.matches)text=text.replaceAll('#0072B2','#4DA3DB').replaceAll('#7A5195','#B08CCB');
  const spec=JSON.parse(text),narrow=space<620;
  spec.config=theme(JSON.parse(JSON.stringify(config)));
  if(narrow){
    const columns=space<460?1:2;
    spec.config.axis.labelLimit=110;spec.config.legend.labelLimit=space/columns-40;below(spec,columns,(space-145)/6.5);
  }
  const least=(spec.usermeta&&spec.usermeta.minWidth)||260;
  const plots=spec.vconcat||[spec.spec&&spec.facet?spec.spec:spec];
  for(const plot of plots)if(typeof plot.width==='number')plot.width=Math.max(least-90,Math.min(plot.width,space-(narrow?145:330)));
  return spec;
}
const drawn=new Set();
function draw(id){
  const figure=document.getElementById(id),frame=figure.querySelector('.chart'),target=frame.firstElementChild,which=chosen[id]||0;
  figure.querySelector('.subtitle').textContent=JSON.parse(figure.dataset.subtitles)[which];
  return vegaEmbed(target,fit(specs[id][which],frame.clientWidth),{mode:'vega-lite',renderer:'svg',tooltip:{theme:dark.matches?'dark':'light'},
    actions:{export:true,source:false,compiled:false,editor:false},downloadFileName:id})
    .then(()=>{drawn.add(id);root.dataset.charts=String(drawn.size)}).catch(failed);
}
document.querySelectorAll('select[data-figure]').forEach(select=>select.addEventListener('change',()=>{chosen[select.dataset.figure]=+select.value;draw(select.dataset.figure)}));
async function all(){ // those in sight first; between two charts the page answers its reader
  const order=Object.keys(specs),seen=id=>{const r=document.getElementById(id).getBoundingClientRect();return r.bottom>0&&r.top<innerHeight};
  for(const id of [...order.filter(seen),...order.filter(id=>!seen(id))]){await draw(id);await new Promise(next=>setTimeout(next))}
  root.dataset.ready='yes';
}
let width=innerWidth,timer;
async function start(){
  await new Promise(next=>requestAnimationFrame(()=>setTimeout(next))); // the text is painted before anything is unpacked
  ({specs,config,files,folded}=JSON.parse(await unpack('data')));
  root.dataset.expected=String(Object.keys(specs).length);
  document.querySelectorAll('details.table').forEach(table=>table.addEventListener('toggle',()=>fill(table)));
  document.querySelectorAll('a[download]').forEach(offer);
  addEventListener('hashchange',reveal);reveal();
  addEventListener('beforeprint',()=>document.querySelectorAll('details.table').forEach(fill));
  document.querySelectorAll('nav a').forEach(link=>link.addEventListener('click',()=>{if(innerWidth<1200)document.querySelector('nav details').open=false}));
  const script=document.createElement('script');
  script.textContent=await unpack('vega');document.head.append(script);
  addEventListener('resize',()=>{if(innerWidth===width)return;width=innerWidth;clearTimeout(timer);timer=setTimeout(all,150)});
  dark.addEventListener('change',all);
  await all();
}
start().catch(failed);
})();
