from kn import *
import copy

steps = 200


def go(name, tr, step, extra):
    cpu = extra
    out = []
    while tr.state.step < steps:
        c = time.process_time()
        step()
        cpu += time.process_time() - c
        if tr.state.step in (25, 50, 100, 150, 200):
            out.append((tr.state.step, round(cpu, 1), round(bits(tr), 4)))
    print(name, out, flush=True)


def scale(tr, rms):
    with torch.no_grad():
        E = tr.model.model.embed_tokens.weight
        E.mul_(rms / E.pow(2).mean().sqrt())


te = Teacher()
tr = make(steps)
t = bigram_start(tr.model, steps=120)
W = copy.deepcopy(tr.model.state_dict())
tr = make(steps, learning_rate=1e-3)
tr.model.load_state_dict(W)
scale(tr, 2.0)
go("start rms2 distill.9", tr, lambda: distill_step(tr, te, 0.9), t[1] + te.cost)
tr = make(steps)
scale(tr, 0.7)
go("no start rms.7 lr5e-3", tr, tr.take_step, 0.0)
tr = make(steps, learning_rate=1e-3, batch_size=2)
tr.model.load_state_dict(W)
scale(tr, 2.0)
steps = 400
tr = make(steps, learning_rate=1e-3, batch_size=2)
tr.model.load_state_dict(W)
scale(tr, 2.0)
go("start rms2 batch2", tr, tr.take_step, t[1])
