"""Dev: joint only, 4 ways in turns."""
import sys, time, json, os
from pathlib import Path
sys.path[0] = str(Path.cwd())
import argparse
p=argparse.ArgumentParser(); p.add_argument("recipe",type=Path); p.add_argument("--seconds",type=float,default=40); p.add_argument("--buckets",default=""); p.add_argument("--local_rank",type=int); a=p.parse_args()
import tempfile
from statistics import median
from benchmarks.step_turns import take_turns, compare
from benchmarks.step_variants import Makers, Worker, Variant
from worker.arms import JOINT
from worker.engine import Ranks
import worker.gradient_mean as gm
ranks=Ranks(); makers=Makers(a.recipe,ranks,alone=False)
with tempfile.TemporaryDirectory() as d:
    w=Worker(makers,Path(d)); joint=w.variants()[0]
    vs=[joint]
    for b in [x for x in a.buckets.split(",") if x]:
        def run(count,b=b):
            old=gm.BUCKET; gm.BUCKET=int(float(b)*2**20)
            try: return joint.run(count)
            finally: gm.BUCKET=old
        vs.append(Variant("worker-"+b,JOINT,run,joint.held,joint.first))
    eng=w._rig.engine; mean=eng._mean
    if mean is not None:
        def old(count):
            eng._mean=None
            try: return joint.run(count)
            finally: eng._mean=mean
        vs.append(Variant("worker-deepspeed",JOINT,old,joint.held,joint.first))
    vs+=[makers.bare("bare",JOINT),makers.bare("pytorch",JOINT),makers.torchdistill()]
    steps,times=take_turns(vs,ranks,a.seconds,time.perf_counter)
    if ranks.rank==0:
        print("steps",steps,"turns",len(times[0]),os.getloadavg())
        td=times[-1]
        for v,t in zip(vs,times): print(f"{v.name:18} {1000*median(t):8.1f} ms  /torchdistill {median(x/y for x,y in zip(t,td)):.3f}  min {1000*min(t):.1f}",flush=True)
ranks.close()
